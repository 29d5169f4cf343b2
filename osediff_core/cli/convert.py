"""`osediff convert`: checkpoints from one format to the other, into a base, and a tagger's files into one."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..choices import DTYPES, LORA_LAYOUTS
from ..errors import OptionError
from .options import check_files
from .outcome import DONE, Outcome, megabytes

HELP = "weights of one-step methods: official files <-> .safetensors, LoRA, merged bases; RAM and DAPE in one"
EXAMPLES = """osediff convert osediff.pkl osediff.safetensors
osediff convert omgsr/ omgsr_s.safetensors --dtype fp16
osediff convert osediff.pkl lora.safetensors --to comfyui --base path/to/sd21-base --vae vae.safetensors
osediff convert osediff.pkl restorer --merge path/to/sd21-base --dtype bf16
osediff convert ram_swin_large_14m.pth tagger.safetensors --dape DAPE.pth
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add = parser.add_argument
    add("input", metavar="IN", help="weights of a one-step method, a file or folder, or RAM's (.pth)")
    add(
        "output", metavar="OUT", help="file to write; its suffix, .pkl or .safetensors, says how; or a folder"
    )
    add(
        "--dtype",
        choices=DTYPES,
        help="precision to store (default: as in the input, of RAM fp16, merged fp32)",
    )
    add("--merge", metavar="BASE", help="merge OSEDiff's weights into this base, a folder that loads faster")
    add(
        "--method",
        metavar="NAME",
        help="of weights that do not say their method themselves, for example hypir",
    )
    add("--dape", metavar="FILE", help="DAPE.pth, to be put into one file with RAM")
    add("--to", choices=LORA_LAYOUTS, help="write the UNet's LoRA as this program loads it by itself")
    add("--base", help="with --to: the base that the weights are for, as `osediff upscale` takes it")
    add(
        "--vae",
        metavar="PATH",
        help="with --to: also write the VAE, its LoRA merged: a .safetensors, or a folder",
    )


def run(args: argparse.Namespace) -> Outcome:
    """Reads weights of any method and writes them in the format of the output's suffix; a tagger into one file.

    Raises OSEDiffError.
    """
    source, output = Path(args.input), Path(args.output)
    if args.merge is not None:
        return _merge(source, output, args)
    if output.suffix.lower() not in (".pkl", ".safetensors"):
        raise OptionError(f"The output {output} must end in .pkl (official format) or .safetensors.")
    if os.path.exists(output) and os.path.exists(source) and os.path.samefile(output, source):
        raise OptionError(f"{output} is the input itself; choose another output.")
    _check_lora(args, output)
    check_files(args.input, args.dape)
    from ..weights.identify import identify

    notes: list[str] = []
    tagger = args.dape is not None or (os.path.exists(source) and identify(source).kind in ("ram", "tagger"))
    if tagger:
        if args.to:
            raise OptionError(
                f"--to is for weights of a one-step method, and {source} is a tagger's; leave it out."
            )
        _convert_tagger(source, output, args)
    else:
        from ..weights.checkpoint import read_weights, write_weights

        weights = read_weights(source, args.method)
        if args.to:
            from ..lora_export import export_lora

            vae = None if args.vae is None else Path(args.vae)
            notes = export_lora(weights, output, args.to, args.base, vae=vae, dtype=args.dtype)
        else:
            write_weights(output, weights, dtype=args.dtype)
    data = {"command": "convert", "input": str(source), "output": str(output), "bytes": output.stat().st_size}
    return Outcome(DONE, [], data, [f"{source} -> {output} ({megabytes(data['bytes'])})", *notes])


def _check_lora(args: argparse.Namespace, output: Path) -> None:
    """Raises OptionError for options that have no effect, and for files that would overwrite each other."""
    if args.to is None and (args.base or args.vae):
        raise OptionError(
            f"--{'base' if args.base else 'vae'} goes with --to, one of {', '.join(LORA_LAYOUTS)}."
        )
    if args.to is None:
        return
    if args.dape is not None:
        raise OptionError("--dape is for taggers, and --to for weights; give one of them.")
    if output.suffix.lower() != ".safetensors":
        raise OptionError(f"The output {output} must end in .safetensors with --to.")
    taken = [os.path.realpath(path) for path in (args.input, output)]
    if args.vae is not None and os.path.realpath(args.vae) in taken:
        raise OptionError(f"--vae {args.vae} is another file of this command; choose another name.")


def _merge(source: Path, output: Path, args: argparse.Namespace) -> Outcome:
    for name in ("dape", "to", "base", "vae", "method"):
        if getattr(args, name) is not None:
            raise OptionError(
                f"--{name} has no part in --merge, which takes OSEDiff's weights; leave it out."
            )
    check_files(args.input, args.merge)
    from ..backends.find_base import find_base
    from ..merged import write_merged
    from ..runtime.device import parse_dtype

    dtype = parse_dtype(args.dtype or "fp32")
    write_merged(output, find_base(args.merge), source, dtype=dtype)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    data = {
        "command": "convert",
        "input": str(source),
        "output": str(output),
        "bytes": size,
        "base": args.merge,
    }
    shown = f"{source} in {args.merge} -> {output} ({megabytes(size)}); use it as --base, without --weights"
    return Outcome(DONE, [], data, [shown])


def _convert_tagger(source: Path, output: Path, args: argparse.Namespace) -> None:
    """DAPE's LoRA stays apart in the file, so that RAM alone can still be had from it."""
    if output.suffix.lower() != ".safetensors":
        raise OptionError(f"The output {output} must end in .safetensors, the only format for taggers.")
    from ..dape import read_tagger, write_tagger
    from ..runtime.device import parse_dtype

    dtype = parse_dtype(args.dtype or "fp16")
    dape = True if args.dape is None else args.dape
    write_tagger(output, read_tagger(source, dape, dtype=dtype, merge=False))
