"""Prompt embeddings, remembered: the text encoder is frozen, so each prompt goes through it once."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from osediff_core.atomic import write_bytes_atomically
from osediff_core.backends.text import ClipPromptEncoder
from osediff_core.errors import explained
from osediff_core.generator import OneStepGenerator
from osediff_core.runtime.device import DTYPES

from .errors import DataError

log = logging.getLogger("training")


def kept_dtype(precision: str) -> torch.dtype | None:
    """In which dtype a run of this precision keeps its embeddings; None: as they come.

    Autocast rounds them to its own before the first product, so half precision loses nothing there.
    """
    return None if precision == "fp32" else DTYPES[precision]


def identity_of(text: ClipPromptEncoder) -> str:
    """A hash of the encoder's weights, as they are loaded, and its vocabulary: what an embedding depends on."""
    found = hashlib.sha256(json.dumps([text.length, sorted(text.tokenizer.get_vocab().items())]).encode())
    for name, tensor in text.module.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.flatten().contiguous().view(torch.uint8).cpu().numpy())
    return found.hexdigest()


class PromptCache:
    """`cache(prompts) -> prompt_embeds (B, L, D)`, on the CPU, from memory, else from `folder`, else by `encode`.

    encode: a list of prompts -> (B, L, D); it gets one at a time, so that an embedding does not depend on its
    neighbours. folder: one file a prompt, shared by processes and runs. keep: prompts in memory, the most recently used
    ones. dtype: of what is kept and given, None: encode's. identity: what tells this text encoder from others.
    Raises DataError if the folder cannot be made.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], Tensor],
        folder: Path | None = None,
        keep: int = 4096,
        dtype: torch.dtype | None = None,
        identity: str = "",
    ) -> None:
        self._encode, self._folder, self._keep, self._identity = encode, folder, keep, identity
        self._dtype = dtype
        self._memory: OrderedDict[str, Tensor] = OrderedDict()
        if folder is not None:
            with explained(DataError, f"The prompt cache {folder} cannot be made", "choose another folder"):
                folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of_run(cls, folder: str | None, generator: OneStepGenerator, precision: str) -> PromptCache:
        """Of the generator's text encoder, as a run of this precision reads it; in `folder`, if any."""
        identity = identity_of(cast("ClipPromptEncoder", generator.text)) if folder else ""
        place = Path(folder) if folder else None
        return cls(generator.encode_prompt, place, dtype=kept_dtype(precision), identity=identity)

    def __call__(self, prompts: list[str]) -> Tensor:
        """(B, L, D); without gradients."""
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._memory:
                self._memory[prompt] = self._from_disk(prompt)
            self._memory.move_to_end(prompt)
        found = torch.stack([self._memory[prompt] for prompt in prompts])
        while len(self._memory) > self._keep:
            self._memory.popitem(last=False)
        return found

    def path(self, prompt: str) -> Path | None:
        """The prompt's file, there or not; None without a folder."""
        if self._folder is None:
            return None
        name = hashlib.sha256(f"{self._identity}\n{self._dtype}\n{prompt}".encode()).hexdigest()
        return self._folder / name[:2] / f"{name}.safetensors"

    def foresee(self, prompts: Iterable[str]) -> list[str]:
        """Say by how much these prompts will make the folder grow; returns those that are not in it, each once.

        Raises DataError where the disk has no room for them.
        """
        if self._folder is None:
            return []
        new = [
            prompt for prompt in dict.fromkeys(prompts) if (path := self.path(prompt)) and not path.exists()
        ]
        if not new:
            return new
        embeds = self(new[:1])
        size = embeds.element_size() * embeds[0].numel()
        said = (
            f"{len(new):,} new prompts of {size / 1e3:.0f} kB each will take {len(new) * size / 1e9:.2f} GB"
        )
        free = shutil.disk_usage(self._folder).free
        if len(new) * size > free:
            raise DataError(
                f"{said} in {self._folder}, where {free / 1e9:.2f} GB are free; choose another folder, or leave the "
                "cache out, as it saves no more than the text encoder's time."
            )
        log.info("%s in %s", said, self._folder)
        return new

    def _from_disk(self, prompt: str) -> Tensor:
        path = self.path(prompt)
        if path is None:
            return self._new(prompt)
        try:
            embeds = load(path.read_bytes())["prompt_embeds"]
            if embeds.ndim == 2 and bool(torch.isfinite(embeds).all()):
                return embeds.to(self._dtype or embeds.dtype)
        except (OSError, SafetensorError, KeyError):
            pass  # not there yet, or damaged: made anew
        embeds = self._new(prompt)
        try:
            path.parent.mkdir(exist_ok=True)
            write_bytes_atomically(path, save({"prompt_embeds": embeds}, {"prompt": prompt}))
        except OSError as error:
            log.warning("the prompt cache %s cannot be written (%s)", self._folder, error.strerror)
            self._folder = None  # a full disk must not stop a run, nor be tried at every prompt
        return embeds

    def _new(self, prompt: str) -> Tensor:
        with torch.no_grad():
            embeds = self._encode([prompt])[0].detach().cpu()
        return embeds.to(self._dtype or embeds.dtype).contiguous()
