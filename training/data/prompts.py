"""Prompt embeddings, remembered: the text encoder is frozen, so each prompt goes through it once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from osediff_core.atomic import write_bytes_atomically


class PromptCache:
    """`cache(prompts) -> prompt_embeds (B, L, D)`, on the CPU, from memory, else from `folder`, else by `encode`.

    folder: one file a prompt, shared by processes and runs; identity: what tells this text encoder from others.
    keep: prompts in memory, the most recently used ones.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], Tensor],
        folder: Path | None = None,
        keep: int = 4096,
        identity: str = "",
    ) -> None:
        self._encode, self._folder, self._keep, self._identity = encode, folder, keep, identity
        self._memory: OrderedDict[str, Tensor] = OrderedDict()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

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

    def _from_disk(self, prompt: str) -> Tensor:
        if self._folder is None:
            return self._encode([prompt])[0].cpu()
        name = hashlib.sha256(f"{self._identity}\n{prompt}".encode()).hexdigest()
        path = self._folder / name[:2] / f"{name}.safetensors"
        try:
            return load(path.read_bytes())["prompt_embeds"]
        except (OSError, SafetensorError, KeyError):  # not there yet, or damaged: made anew
            embeds = self._encode([prompt])[0].cpu().contiguous()
            path.parent.mkdir(exist_ok=True)
            write_bytes_atomically(path, save({"prompt_embeds": embeds}, {"prompt": prompt}))
            return embeds
