"""The tagger: pictures to tags, and tags to a prompt."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..runtime.device import parse_device, parse_dtype
from ..runtime.stage import run_stage
from ..runtime.torch_part import TorchPart
from .network import TaggerNetwork
from .preprocess import preprocess_each
from .tags import Tag, TagTable, excluded_indices, tag_names
from .weights import read_tagger


class Tagger(TorchPart):
    """A tagger's network with the tags it knows.

    antialias: resize pictures with antialiasing, which the official code does not (see `preprocess`).
    """

    module: TaggerNetwork

    def __init__(self, network: TaggerNetwork, antialias: bool = False) -> None:
        super().__init__(network)
        self.table = TagTable.of(network.config)
        self.antialias = antialias

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        dape: bool | str | os.PathLike[str] = True,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        antialias: bool = False,
    ) -> Tagger:
        """From `ram_swin_large_14m.pth` or our .safetensors; see `read_tagger` for `dape`.

        dtype, device: as for the generator; "auto" is fp16 on an accelerator, fp32 on the CPU. Raises CheckpointError
        or OptionError.
        """
        where = parse_device(device)
        weights = read_tagger(path, dape, dtype=parse_dtype(dtype, where))
        return cls(weights.network().to(where), antialias)

    def scores(self, images: Tensor | Sequence[Tensor], batch: int = 4) -> Tensor:
        """The sigmoid of each tag, (B, tags) fp32 on the CPU.

        images: (B, C, H, W), or pictures (C, H, W) of any sizes, in [-1, 1]; C = 1, 3, or 4 with alpha.
        batch: pictures that the network sees at once. Where half precision gives NaN or infinity, fp32 is used.
        Raises ImageError, NonFiniteError, OutOfMemory.
        """
        found = []
        with torch.inference_mode():
            for start in range(0, max(1, len(images)), batch):
                pixels = preprocess_each(
                    images[start : start + batch], self.module.config.image_size, self.device, self.antialias
                )
                logits = run_stage("tag", self, lambda pixels=pixels: self.module(pixels.to(self.dtype)))
                found.append(logits.float().sigmoid().cpu())
        return torch.cat(found)

    def tag(
        self,
        images: Tensor | Sequence[Tensor],
        *,
        threshold_offset: float = 0.0,
        exclude: Iterable[str] = (),
        language: str = "en",
        batch: int = 4,
    ) -> list[list[Tag]]:
        """The tags of each picture, in the order of RAM's list; see `scores` for images and batch.

        threshold_offset: added to every tag's threshold: above 0 fewer tags, below 0 more. exclude: names, English or
        Chinese, that never appear. language: en or zh. Raises OptionError, and what `scores` raises.
        """
        names, left_out = tag_names(language), excluded_indices(exclude)
        return [
            [Tag(names[index], score, index) for index, score in found if index not in left_out]
            for found in self.table.above(self.scores(images, batch), threshold_offset)
        ]


def fitting_prompt(tags: Sequence[Tag | str], words: str, fits: Callable[[str], bool]) -> str:
    """Tags, then the user's words; tags are left out from the end until the text encoder takes everything."""

    def is_too_long(count: int) -> bool:
        return not fits(prompt_of(tags[:count], words))

    count = bisect_left(range(1, len(tags) + 1), True, key=is_too_long)
    return prompt_of(tags[:count], words)


def prompt_of(tags: Iterable[Tag | str], words: str = "", official: bool = False) -> str:
    """Tags and the user's words as a prompt: "a, b, words".

    official: exactly as the official test code builds it, f"{tags}, {words},": without words "a, b, ,", and without
    tags ", ,".
    """
    names = [tag.name if isinstance(tag, Tag) else tag for tag in tags]
    if official:
        return f"{', '.join(names)}, {words},"
    return ", ".join([*names, words] if words else names)
