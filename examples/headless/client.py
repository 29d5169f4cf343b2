"""Works with a running ComfyUI over HTTP and its websocket. Needs aiohttp, which ComfyUI's requirements bring.

client = ComfyClient("http://127.0.0.1:8188")
graph["1"]["inputs"]["image"] = client.upload("photo.jpg")
entry = client.wait(client.queue(graph), on_progress=print)
png = client.fetch(images(entry)[0])
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

Json = dict[str, Any]
Progress = Callable[[str, float, float], None]  # title of the node that runs, steps done, steps in all

_POLL = 0.25  # seconds between two looks at the history
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ComfyError(Exception):
    """The server is not there, refused the workflow or failed in it; one sentence says which, where and why."""


class ComfyInterrupted(ComfyError):
    """The workflow was interrupted, or taken out of the queue."""


class ComfyClient:
    """One server. Every method raises ComfyError."""

    def __init__(self, url: str = "http://127.0.0.1:8188") -> None:
        self.url = url.rstrip("/")
        self._client_id = uuid4().hex  # the server tells about a workflow to the one who queued it
        self._graphs: dict[str, Json] = {}

    def upload(self, path: str | Path) -> str:
        """Puts an image into the server's input folder; returns its name there, for the widget of Load Image."""
        path, boundary = Path(path), uuid4().hex
        head = f'Content-Disposition: form-data; name="image"; filename="{path.name.replace(chr(34), "%22")}"'
        body = f"--{boundary}\r\n{head}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
        body += path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        answer = self._request("/upload/image", body, f"multipart/form-data; boundary={boundary}")
        return json.loads(answer)["name"]

    def queue(self, graph: Json, workflow: Json | None = None) -> str:
        """Queues a graph in the API format; returns the prompt's id. `workflow`, the UI format, goes into the PNG."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        body = {"prompt": graph, "client_id": self._client_id, "extra_data": extra}
        try:
            answer = self._open("/prompt", json.dumps(body).encode(), "application/json")
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise ComfyError(f"{self.url}/prompt answered {error.code} {error.reason}.") from error
            raise ComfyError(_refusal(graph, json.loads(error.read()))) from None
        prompt_id = json.loads(answer)["prompt_id"]
        self._graphs[prompt_id] = graph
        return prompt_id

    def wait(self, prompt_id: str, on_progress: Progress | None = None, timeout: float = 600) -> Json:
        """The history entry of a queued graph when it is done, within `timeout` seconds. Raises ComfyInterrupted, too.

        on_progress is called from another thread, and not after this returns.
        """
        done = Event()
        listener = Thread(target=self._listen, args=(prompt_id, on_progress, done), daemon=True)
        if on_progress is not None:
            listener.start()
        try:
            return _checked(self._await_entry(prompt_id, timeout))
        finally:
            done.set()
            if on_progress is not None:
                listener.join()

    def fetch(self, image: Json) -> bytes:
        """An image file that a history entry names (see `images`)."""
        keys = ("filename", "subfolder", "type")
        return self._request("/view?" + urlencode({key: image[key] for key in keys if key in image}))

    def interrupt(self, prompt_id: str) -> None:
        """Stops a graph that runs, or takes it out of the queue."""
        self.call("/queue", {"delete": [prompt_id]})
        self.call("/interrupt", {"prompt_id": prompt_id})

    def free(self) -> None:
        """Has the server drop its models and cached results, as soon as what is running is done."""
        self.call("/free", {"unload_models": True, "free_memory": True})

    def object_info(self, node: str = "") -> Json:
        """What the server says of all nodes, or of one: inputs, outputs, help."""
        return self.call("/object_info/" + quote(node) if node else "/object_info")

    def call(self, path: str, body: Json | None = None) -> Json:
        """Any route that answers with JSON or nothing: GET, or POST with a body."""
        answer = self._request(path, None if body is None else json.dumps(body).encode())
        return json.loads(answer) if answer else {}

    def _await_entry(self, prompt_id: str, timeout: float) -> Json:
        # The history decides, not the websocket's messages: those of before a connection are lost.
        end = time.monotonic() + timeout
        while (entry := self._entry(prompt_id)) is None:
            if time.monotonic() > end:
                raise ComfyError(
                    f"The workflow is not done after {timeout:g} seconds; wait longer or interrupt it."
                )
            time.sleep(_POLL)
        return entry

    def _listen(self, prompt_id: str, on_progress: Progress, done: Event) -> None:
        asyncio.run(self._report(prompt_id, on_progress, done))

    async def _report(self, prompt_id: str, on_progress: Progress, done: Event) -> None:
        """Passes on what the websocket says until it says that the graph is done, or is silent after `done`."""
        import aiohttp

        address = f"{self.url}/ws?clientId={self._client_id}"
        last: dict[str, tuple] = {}
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            while not socket.closed:
                try:
                    message = await socket.receive(timeout=_POLL)
                except asyncio.TimeoutError:
                    if done.is_set():
                        return
                    continue
                if message.type is not aiohttp.WSMsgType.TEXT:  # a preview
                    continue
                event = json.loads(message.data)
                if event["data"].get("prompt_id") != prompt_id:
                    continue
                if event["type"] == "executing" and event["data"]["node"] is None:
                    return
                if event["type"] == "progress_state":
                    self._pass_on(event["data"], last, on_progress)

    def _pass_on(self, data: Json, last: dict[str, tuple], on_progress: Progress) -> None:
        """The nodes that run, each when it got further; `last` is what was said of them."""
        for node_id, state in data["nodes"].items():
            if state["state"] == "running" and last.get(node_id) != (state["value"], state["max"]):
                last[node_id] = (state["value"], state["max"])
                title = _title(self._graphs.get(data["prompt_id"], {}), state["display_node_id"])
                on_progress(title, *last[node_id])

    def _entry(self, prompt_id: str) -> Json | None:
        """The history entry, None while the graph waits or runs."""
        queue = self.call("/queue")  # before the history: a graph goes from the one into the other
        entry = self.call(f"/history/{prompt_id}").get(prompt_id)
        if entry is None and all(prompt_id != item[1] for part in queue.values() for item in part):
            raise ComfyInterrupted(
                "The server knows no such workflow any more: it was taken out of the queue."
            )
        return entry

    def _request(self, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        try:
            return self._open(path, body, kind)
        except urllib.error.HTTPError as error:
            raise ComfyError(f"{self.url}{path} answered {error.code} {error.reason}.") from error

    def _open(self, path: str, body: bytes | None, kind: str) -> bytes:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind})
        try:
            with _NO_PROXY.open(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            raise ComfyError(
                f"No ComfyUI answers at {self.url}: {getattr(error, 'reason', error)}."
            ) from error


def images(entry: Json) -> list[Json]:
    """The images that a history entry names, saved ones before previews."""
    found = [image for output in entry["outputs"].values() for image in output.get("images", [])]
    return sorted(found, key=lambda image: image.get("type") != "output")


def _title(graph: Json, node_id: str) -> str:
    node = graph.get(node_id, {})
    return node.get("_meta", {}).get("title") or node.get("class_type") or node_id


def _refusal(graph: Json, answer: Json) -> str:
    """Why a graph was not queued: the first thing that is wrong with a node, else with the graph."""
    reason = _sentence(answer["error"])
    for node_id, node in answer.get("node_errors", {}).items():
        if node["errors"]:
            reason = f'"{_title(graph, node_id)}" ({node["class_type"]}): {_sentence(node["errors"][0])}'
            break
    return f"The server refused the workflow: {reason}."


def _sentence(error: Json) -> str:
    return ": ".join(part.rstrip(".") for part in (error["message"], error["details"]) if part)


def _checked(entry: Json) -> Json:
    """A history entry of a graph that succeeded, as it is."""
    messages = dict(entry["status"]["messages"])
    if "execution_interrupted" in messages:
        raise ComfyInterrupted("The workflow was interrupted.")
    if "execution_error" in messages:
        error = messages["execution_error"]
        name = f'"{_title(entry["prompt"][2], error["node_id"])}" ({error["node_type"]})'
        message = error["exception_message"].strip().splitlines()
        raise ComfyError(f"The node {name} failed: {message[0] if message else error['exception_type']}")
    return entry
