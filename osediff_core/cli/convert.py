"""`osediff convert`: checkpoints from one format to the other, and a tagger's files into one."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..choices import DTYPES
from ..errors import OptionError
from .options import check_files
from .outcome import DONE, Outcome, megabytes

HELP = "weights of one-step methods: official files <-> .safetensors; RAM and DAPE in one file"
EXAMPLES = """osediff convert osediff.pkl osediff.safetensors
osediff convert omgsr/ omgsr_s.safetensors --dtype fp16
osediff convert ram_swin_large_14m.pth tagger.safetensors --dape DAPE.pth
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add = parser.add_argument
    add("input", metavar="IN", help="weights of a one-step method, a file or folder, or RAM's (.pth)")
    add("output", metavar="OUT", help="file to write; its suffix, .pkl or .safetensors, says how")
    add("--dtype", choices=DTYPES, help="precision to store (default: as in the input, of RAM fp16)")
    add(
        "--method",
        metavar="NAME",
        help="of weights that do not say their method themselves, for example hypir",
    )
    add("--dape", metavar="FILE", help="DAPE.pth, to be put into one file with RAM")


def run(args: argparse.Namespace) -> Outcome:
    """Reads weights of any method and writes them in the format of the output's suffix; a tagger into one file.

    Raises OSEDiffError.
    """
    source, output = Path(args.input), Path(args.output)
    if output.suffix.lower() not in (".pkl", ".safetensors"):
        raise OptionError(f"The output {output} must end in .pkl (official format) or .safetensors.")
    if os.path.exists(output) and os.path.exists(source) and os.path.samefile(output, source):
        raise OptionError(f"{output} is the input itself; choose another output.")
    check_files(args.input, args.dape)
    from ..weights.identify import identify

    tagger = args.dape is not None or (os.path.exists(source) and identify(source).kind in ("ram", "tagger"))
    if tagger:
        _convert_tagger(source, output, args)
    else:
        from ..weights.checkpoint import read_weights, write_weights

        write_weights(output, read_weights(source, args.method), dtype=args.dtype)
    data = {"command": "convert", "input": str(source), "output": str(output), "bytes": output.stat().st_size}
    return Outcome(DONE, [], data, [f"{source} -> {output} ({megabytes(data['bytes'])})"])


def _convert_tagger(source: Path, output: Path, args: argparse.Namespace) -> None:
    """DAPE's LoRA stays apart in the file, so that RAM alone can still be had from it."""
    if output.suffix.lower() != ".safetensors":
        raise OptionError(f"The output {output} must end in .safetensors, the only format for taggers.")
    from ..dape import read_tagger, write_tagger
    from ..runtime.device import parse_dtype

    dtype = parse_dtype(args.dtype or "fp16")
    dape = True if args.dape is None else args.dape
    write_tagger(output, read_tagger(source, dape, dtype=dtype, merge=False))
