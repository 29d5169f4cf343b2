"""What a training picture shows: nothing, fixed words, text files, a list made beforehand, or a tagger on the fly."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from osediff_core.dape import Tagger as RamTagger
from osediff_core.dape import prompt_of
from osediff_core.dape.choice import TINY, tagger_path
from osediff_core.errors import CheckpointError
from osediff_core.weights.identify import identify

from .errors import DataError


class Tagger(Protocol):
    """Words for pictures."""

    def __call__(self, images: Tensor) -> list[str]:
        """images (B, 3, H, W) in [-1, 1] -> a prompt each, such as "harbour, boats"."""
        ...


class Captions:
    """The prompt of a picture, as data.captions says. `tagger` is set where the crop itself must be looked
    at, on `device`."""

    def __init__(self, kind: str, tagger: Tagger | None = None, device: torch.device | str = "auto") -> None:
        self.kind, _, self.value = kind.partition(":")
        self.tagger = tagger
        self._listed: dict[str, str] = {}
        if self.kind == "tagger" and tagger is None:
            self.tagger = find_tagger(self.value, device)
        elif self.kind == "file":
            self._listed = read_captions(Path(self.value))
        elif self.kind not in ("none", "text", "files", "tagger"):
            raise DataError(
                f"captions {kind!r} is unknown; use none, text:WORDS, files, file:PATH or tagger:NAME-OR-PATH."
            )

    def prompt(self, name: str, beside: Callable[[], str | None]) -> str | None:
        """The prompt of picture `name`, or None where the tagger decides. Pictures without a caption get none.

        beside: reads the text that lies beside the picture.
        """
        if self.kind == "tagger":
            return None
        if self.kind == "files":
            return beside() or ""
        return self.value if self.kind == "text" else self._listed.get(name, "")

    @property
    def listed(self) -> set[str]:
        """The prompts of the list, each once."""
        return set(self._listed.values())

    def knows(self, name: str) -> bool:
        """Whether the list has a caption of picture `name`."""
        return name in self._listed


def find_tagger(name: str, device: torch.device | str = "auto") -> Tagger:
    """`appearance` (colours and texture; what the embedded model knows), a tagger, or package.module:callable.

    A tagger is a file of RAM or `tiny`, the embedded one, and runs on `device`.

    Raises DataError for anything else.
    """
    if name == "appearance":
        return _appearance
    if name == TINY or Path(name).suffix in (".pth", ".safetensors"):
        return RamCaptions(tagger_path(name), device)
    module, colon, attribute = name.partition(":")
    if not colon:
        raise DataError(
            f"There is no tagger {name!r}; use appearance, tiny, a file of RAM, or your own as package.module:callable."
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"The tagger {name} cannot be imported ({error}); mend its name.") from error
    if not callable(found):
        raise DataError(f"The tagger {name} cannot be called; name a function or a class's instance.")
    return cast("Tagger", found)


class RamCaptions:
    """RAM's tags with commas between them, as the official training makes prompts of the HQ crops; without DAPE.

    The weights are loaded at the first call, so that worker processes do not carry them. Raises DataError for a file
    that is no tagger.
    """

    def __init__(self, path: Path, device: torch.device | str = "auto") -> None:
        try:
            identity = identify(path)
        except CheckpointError as error:
            raise DataError(str(error)) from error
        if identity.kind not in ("ram", "tagger"):
            raise DataError(f"{path} is {identity.what}, not a tagger; give ram_swin_large_14m.pth.")
        self.path, self.device = path, device
        self._loaded: RamTagger | None = None

    def __call__(self, images: Tensor) -> list[str]:
        """images (B, 3, H, W) in [-1, 1] -> a prompt each."""
        if self._loaded is None:
            self._loaded = RamTagger.load(self.path, dape=False, device=self.device)
        return [prompt_of(tags) for tags in self._loaded.tag(images, batch=len(images))]

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "device": self.device, "_loaded": None}


def _appearance(images: Tensor) -> list[str]:
    from .appearance import appearance_tags

    pictures = ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [", ".join(appearance_tags(np.ascontiguousarray(picture))) for picture in pictures]


def read_captions(path: Path) -> dict[str, str]:
    """name -> caption of a JSONL file by `python -m training.caption`; a torn last line is left out.

    Raises DataError.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The captions {path} cannot be read; make them by python -m training.caption."
        ) from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            name, caption = row["name"], row["caption"]
            if not isinstance(name, str) or not isinstance(caption, str):
                raise TypeError
            found[name] = caption
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # torn: the writer was stopped in it
                break
            raise DataError(f"Line {number} of {path} is no caption; mend or remove it.") from error
    return found
