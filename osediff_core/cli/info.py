"""`osediff info`: what a checkpoint or a base model is and holds, and whether it is a published one."""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from typing import Any

from .options import check_files
from .outcome import DONE, Outcome, megabytes

logger = logging.getLogger(__name__)

HELP = "what a checkpoint or base model is and holds"
EXAMPLES = """osediff info osediff.pkl
osediff info path/to/sd21-base --json
"""

_WEIGHTS = frozenset({".safetensors", ".pkl", ".pth", ".pt", ".bin", ".ckpt"})


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "path", metavar="PATH", help="a checkpoint file, a folder of a model or adapters, or tiny"
    )
    parser.add_argument("--method", metavar="NAME", help="of weights that do not say their method themselves")


def run(args: argparse.Namespace) -> Outcome:
    """Describes a checkpoint or a base folder from its content. Raises CheckpointError."""
    check_files(args.path)
    from ..backends.find_base import PACKAGED
    from ..weights.describe import describe

    path = PACKAGED.get(args.path, Path(args.path))
    facts = describe(path, args.method)
    facts |= _checksums(path) if os.path.isdir(path) else _checksum(path)
    return Outcome(DONE, _as_text(facts), {"command": "info", **facts})


def _checksum(path: Path) -> dict[str, Any]:
    """The file's SHA-256, and which published file it is or has the name of."""
    from ..weights.digest import check_published

    found = check_published(path)
    if found.namesake is not None:
        logger.warning(
            "%s has the name of the published %s, but another content (expected %s, found %s); if it came from %s, "
            "download it again",
            path,
            found.namesake.name,
            found.namesake.digest,
            found.digests[found.namesake.digest.kind],
            found.namesake.place,
        )
    name = None if found.file is None else found.file.name
    return {"sha256": found.digests["sha256"].value, "published": name}


def _checksums(folder: Path) -> dict[str, Any]:
    from ..weights.digest import digest_of

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _WEIGHTS and path.is_file())
    return {"sha256": {str(path.relative_to(folder)): digest_of(path).value for path in files}}


def _as_text(facts: dict[str, Any]) -> list[str]:
    lines = [f"{facts['path']}: {facts['what']} ({megabytes(facts['bytes'])})", f"  use: {facts['use']}"]
    for key, value in facts.items():
        if key not in ("path", "what", "use", "bytes"):
            lines += _lines(key, value, "  ")
    return lines


def _lines(key: str, value: Any, indent: str) -> list[str]:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        if not value:
            return []
        return [f"{indent}{key}:", *(line for k, v in value.items() for line in _lines(k, v, indent + "  "))]
    if isinstance(value, list):
        return [f"{indent}{key}: {', '.join(map(str, value))}"] if value else []
    return [f"{indent}{key}: {value if isinstance(value, str) else json.dumps(value)}"]
