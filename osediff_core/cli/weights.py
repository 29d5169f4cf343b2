"""`osediff convert` and `osediff info`: checkpoints from one format to the other, and what a file or folder holds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import OptionError
from .outcome import DONE, Outcome


def convert(args: argparse.Namespace) -> Outcome:
    """Reads OSEDiff weights in either format and writes them in that of the output's suffix; a tagger into one file.

    Raises OSEDiffError.
    """
    source, output = Path(args.input), Path(args.output)
    if output.suffix.lower() not in (".pkl", ".safetensors"):
        raise OptionError(f"The output {output} must end in .pkl (official format) or .safetensors.")
    if output.exists() and source.exists() and output.samefile(source):
        raise OptionError(f"{output} is the input itself; choose another output.")
    from ..weights.identify import identify

    tagger = args.dape is not None or (source.exists() and identify(source).kind in ("ram", "tagger"))
    if tagger:
        _convert_tagger(source, output, args)
    else:
        from ..weights.checkpoint import read_weights, write_weights

        write_weights(output, read_weights(source), dtype=args.dtype)
    data = {"command": "convert", "input": str(source), "output": str(output), "bytes": output.stat().st_size}
    return Outcome(DONE, f"{source} -> {output} ({_megabytes(data['bytes'])})", data)


def _convert_tagger(source: Path, output: Path, args: argparse.Namespace) -> None:
    """DAPE's LoRA stays apart in the file, so that RAM alone can still be had from it."""
    if output.suffix.lower() != ".safetensors":
        raise OptionError(f"The output {output} must end in .safetensors, the only format for taggers.")
    from ..dape import read_tagger, write_tagger
    from ..runtime.device import DTYPES

    dtype = DTYPES[args.dtype or "fp16"]
    dape = True if args.dape is None else args.dape
    write_tagger(output, read_tagger(source, dape, dtype=dtype, merge=False))


def info(args: argparse.Namespace) -> Outcome:
    """Describes a checkpoint or a base folder from its content. Raises CheckpointError."""
    from ..backends.find_base import PACKAGED
    from ..weights.describe import describe

    facts = describe(PACKAGED.get(args.path, Path(args.path)))
    return Outcome(DONE, _as_text(facts), {"command": "info", **facts})


def _as_text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['path']}: {facts['what']} ({_megabytes(facts['bytes'])})", f"  use: {facts['use']}"]
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


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"
