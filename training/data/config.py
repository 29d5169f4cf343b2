"""Where training pictures come from and what becomes of them, as settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

from osediff_core.degrade import draw
from osediff_core.errors import OSEDiffError

from .errors import DataError

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


def check_data(config: DataConfig, seed: int) -> None:
    """Raises DataError for what cannot work."""
    if not config.sources:
        raise DataError("data.sources is empty; name at least one folder, list or data set.")
    if config.resolution < 8:
        raise DataError(
            f"data.resolution is {config.resolution}; the crops need 8 pixels or more, such as 512."
        )
    if config.scale < 1:
        raise DataError(
            f"data.scale is {config.scale}, but a picture cannot be made smaller by less than 1; use 4."
        )
    if config.small not in ("enlarge", "skip"):
        raise DataError(f"data.small is {config.small!r}; use enlarge or skip.")
    if not 0 <= config.prompt_dropout <= 1:
        raise DataError(f"data.prompt_dropout is {config.prompt_dropout}, but is a probability, 0 to 1.")
    if config.workers < 0 or config.prefetch < 1:
        raise DataError("data.workers must be 0 or more, and data.prefetch 1 or more.")
    if seed < 0:
        raise DataError(f"The seed {seed} must not be negative; take any whole number from 0.")
    for source in config.sources:
        if not 0 < source.weight < float("inf"):
            raise DataError("The weight of a source must be above 0; leave out a source that is not wanted.")
        if source.limit < 0 or source.window < 1:
            raise DataError(f"limit of {source.path} must be 0 or more, and window 1 or more.")
        if source.streaming and source.kind not in ("auto", "dataset"):
            raise DataError(
                f"{source.path} cannot be streamed as kind {source.kind}; leave out streaming, or use kind dataset."
            )
    try:
        for preset in {config.degradation, *(source.degradation for source in config.sources)} - {None}:
            draw(preset, (config.resolution, config.resolution), config.scale)
    except OSEDiffError as error:
        raise DataError(f"data.degradation: {error}") from error
