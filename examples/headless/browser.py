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
_TABS = 38  # px
_READY = """() => !!(window.app && window.app.graph && window.app.extensionManager && window.LiteGraph &&
    Object.keys(LiteGraph.registered_node_types || {}).length > 50)"""
_QUEUE = """async ([milliseconds, by_button]) => {
    const button = by_button ? document.querySelector("[data-testid='queue-button']") : null;
    if (by_button && !button) throw new Error('The page has no Run button.');
    const names = ['execution_success', 'execution_error', 'execution_interrupted'];
    const done = new Promise(resolve => {
        for (const name of names) app.api.addEventListener(name, event => resolve([name, event.detail]));
    });
    if (button) button.click(); else await app.queuePrompt(0);
    return await Promise.race([done, new Promise(r => setTimeout(() => r(['timeout', null]), milliseconds))]);
}"""
_CARDS = "[data-testid^='template-workflow-']"
_OPEN = """async ([workflow, name]) => {
    await app.loadGraphData(workflow, true, true, name, { openSource: 'template' });
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

    def load(self, workflow: Json, name: str = "workflow") -> None:
        """Opens a UI workflow as a template; again if it is gone, as a page that has just started opens one itself."""
        for _ in range(5):
            self.evaluate(_OPEN, [workflow, name])
            self.wait_for_timeout(800)
            if len(self.nodes()) == len(workflow["nodes"]):
                return

    def resize(self, width: int, height: int) -> None:
        """The window from now on, in pixels."""
        self._page.set_viewport_size({"width": width, "height": height})
        self.wait_for_function(f"() => app.canvas.canvas.width === {width} * devicePixelRatio")

    def browse_templates(self, words: str) -> None:
        """Opens the page of templates and searches there; returns when one is shown that has the words in its name."""
        self.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self._page.locator(_CARDS).first.wait_for()
        # a new user sees those to get started with, and the search looks only among these
        self._page.get_by_text("All Templates", exact=True).first.click()
        self._page.get_by_placeholder("Search").last.fill(words)
        self.wait_for_function(
            f"""words => [...document.querySelectorAll("{_CARDS}")]
                .some(card => card.dataset.testid.toLowerCase().includes(words))""",
            arg=words.lower(),
        )
        self.wait_for_timeout(1000)

    def templates(self) -> list[str]:
        """The names of the templates that are shown."""
        shown = self.evaluate(
            f"""() => [...document.querySelectorAll("{_CARDS}")].map(c => c.dataset.testid)"""
        )
        return [name.removeprefix("template-workflow-") for name in shown]

    def choose_template(self, name: str) -> None:
        """Opens the template of that name, as a click on its card does."""
        self._page.get_by_test_id(f"template-workflow-{name}").click()
        self.wait_for_function("() => app.graph.nodes.some(node => node.type.startsWith('OSEDiff_'))")
        self.wait_for_timeout(1000)

    def nodes(self) -> list[Json]:
        """id, type, title of every node, and whether the page knows its type."""
        return self.evaluate(
            """() => app.graph.nodes.map(n => ({ id: n.id, type: n.type, title: n.title,
                known: n.type in LiteGraph.registered_node_types }))"""
        )

    def api(self) -> Json:
        """The open workflow as the API has it."""
        return self.evaluate("async () => (await app.graphToPrompt()).output")

    def queue(self, seconds: float = 120, by_button: bool = False) -> tuple[str, Any]:
        """Runs the open workflow: ("execution_success", details), or another event, or ("timeout", None)."""
        name, detail = self.evaluate(_QUEUE, [seconds * 1000, by_button])
        return name, detail

    def screenshot(self, path: Path, dialog: bool = False) -> None:
        """What the page looks like below its tabs, as a file of the suffix's format. dialog: with one that is open."""
        if not dialog:
            self._page.keyboard.press("Escape")
        options = {"type": "jpeg", "quality": 82} if path.suffix == ".jpg" else {}
        width, height = (self._page.viewport_size or {}).values()
        clip = {"x": 0, "y": _TABS, "width": width, "height": height - _TABS}
        self._page.screenshot(path=str(path), clip=clip, **options)


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
