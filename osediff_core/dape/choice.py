"""The choice of a tagger: the files that make up the one asked for, by path or as the embedded "tiny"."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..choices import TINY
from ..errors import OptionError
from ..weights.identify import identify
from .tagger import Tagger

Name = str | os.PathLike[str]

# Tiny DAPE comes with the package, for examples, tests and demos (see tiny/README.md).
TINY_TAGGER = Path(__file__).parent / "tiny/tagger.safetensors"


def tagger_path(name: Name) -> Path:
    """The file of a tagger: the embedded one for "tiny", else `name` itself."""
    return TINY_TAGGER if name == TINY else Path(name)


def open_tagger(
    dape: Name | None,
    ram: Name | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
) -> Tagger:
    """dape: "tiny", the embedded one, a tagger in one file (`osediff convert`), or DAPE.pth together with ram.

    ram alone: RAM without DAPE; "tiny" is the embedded tagger without its LoRA.
    Raises OptionError if neither is given, or DAPE.pth alone; CheckpointError for files that are something else.
    """
    path, lora = tagger_files(dape, ram)
    return Tagger.load(path, lora, dtype=dtype, device=device)


def tagger_files(dape: Name | None, ram: Name | None) -> tuple[Path, Path | bool]:
    """(the tagger's file, what `read_tagger` takes as `dape`); raises what `open_tagger` does."""
    if ram is not None:
        return tagger_path(ram), False if dape is None else Path(dape)
    if dape is None:
        raise OptionError("There is no tagger; give one (--dape), or RAM's weights (--ram).")
    path = tagger_path(dape)
    if identify(path).kind == "dape":
        raise OptionError(
            f"{dape} is only what DAPE changes in RAM; give RAM's weights (ram_swin_large_14m.pth) as well."
        )
    return path, True
