"""Warnings and progress where a person looks: on the node; warnings also as a message, in the log and the history."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from comfy_api.latest import ui
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

logger = logging.getLogger(__name__)

_gathered: ContextVar[list[str] | None] = ContextVar("osediff_warnings", default=None)


def warn(text: str) -> None:
    """Shows one sentence at the node that is executed; without a server, only in the log."""
    logger.warning(text)
    gathered = _gathered.get()
    if gathered is not None:
        gathered.append(text)
    found = _server_and_node()
    if found is not None:
        server, node = found
        server.send_progress_text("\n".join(gathered or [text]), node)
        server.send_sync("osediff.warning", {"node": node, "text": text})


def show(status: str) -> None:
    """Shows how far the work is at the node that is executed, below its warnings; without a server, nothing."""
    found = _server_and_node()
    if found is not None:
        server, node = found
        server.send_progress_text("\n".join([*(_gathered.get() or []), status]).strip(), node)


def _server_and_node() -> tuple[Any, str] | None:
    from server import PromptServer  # late: ComfyUI's start imports it at its own time

    server = getattr(PromptServer, "instance", None)
    context = get_executing_context()
    if server is None or context is None:
        return None
    # what another node expanded into is not in the graph that the person sees
    return server, get_progress_state().dynprompt.get_display_node_id(context.node_id)


@contextmanager
def warnings_gathered() -> Iterator[list[str]]:
    """Inside this context, the warnings so far: for a node's output, by which clients of the API find them."""
    warnings: list[str] = []
    token = _gathered.set(warnings)
    try:
        yield warnings
    finally:
        _gathered.reset(token)


def as_output(warnings: list[str]) -> dict[str, Any]:
    """The warnings as what a node shows; nothing without any."""
    return ui.PreviewText("\n".join(warnings)).as_dict() if warnings else {}
