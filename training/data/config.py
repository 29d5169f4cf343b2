"""Where training pictures come from and what becomes of them, as settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

Kind = Literal["auto", "folder", "list", "shards", "dataset"]


@dataclass(frozen=True)
class SourceConfig:
    """One source of pictures.

    path: a folder; a .txt list, one picture a line, relative to the list; .tar shards (a glob, a {000..012} list or a
    folder of them), which hold KEY.jpg and KEY.txt as webdataset's do; or a data set of Hugging Face's `datasets`: a
    saved folder, .parquet or .arrow files, a name.
    """

    path: str
    kind: Kind = "auto"
    weight: float = 1.0  # share of the samples, relative to the other sources
    limit: int = 0  # only the first pictures, in order of their names; 0: all
    exclude: tuple[str, ...] = ()  # of folders: patterns of paths below it, such as "kodak/*"
    degradation: str | None = None  # instead of the one for all; a folder may be listed once for each
    targets: str | None = (
        None  # folder with a teacher's pictures of the same names (and sizes), for loss.teacher
    )
    # of data sets:
    split: str = "train"
    image_column: str | None = None  # None: the first one that holds pictures
    caption_column: str = "caption"
    streaming: bool = False  # read in order from where it is, shuffled in windows
    window: int = 1024  # pictures that are shuffled together, and held in memory, encoded
    allow_download: bool = False

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class DataConfig:
    """All sources, and the pairs made of them."""

    sources: tuple[SourceConfig, ...]
    resolution: int = 512  # px, side of the squares that are trained on
    # crop: a square from a random place; whole: all of it, made square by LANCZOS whatever its shape (aligned faces)
    picture: Literal["crop", "whole"] = "crop"
    small: Literal["enlarge", "skip"] = "enlarge"  # what becomes of pictures with a shorter side
    flip: bool = True  # half of the squares are mirrored
    rotate: bool = (
        False  # half are turned upside down, half lie on a side, so that all eight positions are as frequent
    )
    degradation: str = "realesrgan"  # a preset of osediff_core.degrade, or a .yaml file
    degradation_official: bool = False  # with the quirks of the official code, whatever the preset says
    scale: float = 4.0
    # none; text:WORDS; files: NAME.txt beside the picture or in the shard, or the caption column; file:PATH of
    # python -m training.caption; tagger:NAME or tagger:PATH of RAM's weights, from the HQ crop
    captions: str = "none"
    prompt_dropout: float = 0.0  # probability of an empty prompt
    # both: the distillation gets it, too; generator: the teacher always sees the prompt (PiSA-SR)
    prompt_dropout_of: Literal["both", "generator"] = "both"
    workers: int = 2  # processes; 0: in the trainer's own
    prefetch: int = 2  # batches that each worker prepares ahead

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
