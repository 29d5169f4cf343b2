"""`osediff info`: what a checkpoint or a base model is and holds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .outcome import DONE, Outcome, megabytes

HELP = "what a checkpoint or base model is and holds"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "path", metavar="PATH", help="a checkpoint file, a folder of a model or adapters, or tiny"
    )
    parser.add_argument("--method", metavar="NAME", help="of weights that do not say their method themselves")


def run(args: argparse.Namespace) -> Outcome:
    """Describes a checkpoint or a base folder from its content. Raises CheckpointError."""
    from ..backends.find_base import PACKAGED
    from ..weights.describe import describe

    facts = describe(PACKAGED.get(args.path, Path(args.path)), args.method)
    return Outcome(DONE, _as_text(facts), {"command": "info", **facts})


def _as_text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['path']}: {facts['what']} ({megabytes(facts['bytes'])})", f"  use: {facts['use']}"]
    for key, value in facts.items():
        if key not in ("path", "what", "use", "bytes"):
            lines += _lines(key, value, "  ")
    return "\n".join(lines)


def _lines(key: str, value: Any, indent: str) -> list[str]:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        if not value:
            return []
        return [f"{indent}{key}:", *(line for k, v in value.items() for line in _lines(k, v, indent + "  "))]
    if isinstance(value, list):
        return [f"{indent}{key}: {', '.join(map(str, value))}"] if value else []
    return [f"{indent}{key}: {value if isinstance(value, str) else json.dumps(value)}"]
