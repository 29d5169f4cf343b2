"""ComfyUI's page in Chromium: load a workflow, read it as the API's, queue it. Needs playwright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .client import Json

if TYPE_CHECKING:
    from playwright.sync_api import Page as PlaywrightPage

CHROMIUM = "/usr/bin/chromium"
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
]
_READY = """() => !!(window.app && window.app.graph && window.app.extensionManager && window.LiteGraph &&
    Object.keys(LiteGraph.registered_node_types || {}).length > 50)"""
_QUEUE = """async milliseconds => {
    const names = ['execution_success', 'execution_error', 'execution_interrupted'];
    const done = new Promise(resolve => {
        for (const name of names) app.api.addEventListener(name, event => resolve([name, event.detail]));
    });
    await app.queuePrompt(0);
    return await Promise.race([done, new Promise(r => setTimeout(() => r(['timeout', null]), milliseconds))]);
}"""
_FIT = """() => {
    const boxes = [...app.graph.nodes, ...app.graph.groups].map(item => item.boundingRect ?? item._bounding);
    const left = Math.min(...boxes.map(b => b[0])), top = Math.min(...boxes.map(b => b[1]));
    const right = Math.max(...boxes.map(b => b[0] + b[2])), bottom = Math.max(...boxes.map(b => b[1] + b[3]));
    const canvas = app.canvas.canvas, ds = app.canvas.ds, margin = 60;
    const width = canvas.clientWidth - 2 * margin, height = canvas.clientHeight - 2 * margin;
    ds.scale = Math.min(width / (right - left), height / (bottom - top), 1);
    ds.offset[0] = (margin + (width - (right - left) * ds.scale) / 2) / ds.scale - left;
    ds.offset[1] = (margin + (height - (bottom - top) * ds.scale) / 2) / ds.scale - top;
    app.canvas.setDirty(true, true);
}"""


class Page:
    """ComfyUI's page. errors: what it threw without catching it."""

    def __init__(self, page: PlaywrightPage, url: str) -> None:
        self._page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.evaluate, self.wait_for_timeout = page.evaluate, page.wait_for_timeout
        self.wait_for_function = page.wait_for_function
        self._url = url
        self.reload()

    def reload(self) -> None:
        """Opens the page anew, as after a change of the settings."""
        self._page.goto(self._url, wait_until="domcontentloaded")
        self._page.wait_for_function(_READY, timeout=120_000)

    def load(self, workflow: Json) -> None:
        """Opens a UI workflow; again if it is gone, as a page that has just started opens one of its own."""
        for _ in range(5):
            self.evaluate("async workflow => { await app.loadGraphData(workflow) }", workflow)
            self.wait_for_timeout(800)
            if len(self.nodes()) == len(workflow["nodes"]):
                return

    def nodes(self) -> list[Json]:
        """id, type, title of every node, and whether the page knows its type."""
        return self.evaluate(
            """() => app.graph.nodes.map(n => ({ id: n.id, type: n.type, title: n.title,
                known: n.type in LiteGraph.registered_node_types }))"""
        )

    def api(self) -> Json:
        """The open workflow as the API has it."""
        return self.evaluate("async () => (await app.graphToPrompt()).output")

    def queue(self, seconds: float = 120) -> tuple[str, Any]:
        """Runs the open workflow: ("execution_success", details), or another event, or ("timeout", None)."""
        name, detail = self.evaluate(_QUEUE, seconds * 1000)
        return name, detail

    def fit(self) -> None:
        """Shows the whole graph."""
        self.evaluate(_FIT)
        self.wait_for_timeout(1500)

    def screenshot(self, path: Path) -> None:
        """What the page looks like, as a file of the suffix's format."""
        self._page.keyboard.press("Escape")
        options = {"type": "jpeg", "quality": 82} if path.suffix == ".jpg" else {}
        self._page.screenshot(path=str(path), **options)


@contextmanager
def open_comfyui(url: str, width: int = 1600, height: int = 1000) -> Iterator[Page]:
    """The page of a running ComfyUI, until the `with` block ends."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield Page(browser.new_page(viewport={"width": width, "height": height}), url)
        finally:
            browser.close()
