"""Warnings where a person looks: on the node, as a message of the front end, in the log and in the run's history."""

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
    from server import PromptServer  # late: ComfyUI's start imports it at its own time

    server = getattr(PromptServer, "instance", None)
    context = get_executing_context()
    if server is None or context is None:
        return
    # what another node expanded into is not in the graph that the person sees
    node = get_progress_state().dynprompt.get_display_node_id(context.node_id)
    server.send_progress_text(text, node)
    server.send_sync("osediff.warning", {"node": node, "text": text})


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
