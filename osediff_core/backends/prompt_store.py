"""Embeddings of prompts in a folder, beside the encoder that made them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..atomic import write_bytes_atomically
from ..runtime.device import short_name

_MOST = 1000  # files; 160 MB at SD 2.1's size in bf16
_NAME = "embedding"


class PromptStore:
    """Keeper of embeddings (L, D), by prompt and precision. What cannot be read or written is done without."""

    def __init__(self, folder: Path, grows: bool = True) -> None:
        self.folder, self.grows = folder, grows

    def recall(self, prompt: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
        """The embedding, on the CPU; None if it is not there, or not of this shape and precision."""
        try:
            found = safetensors.torch.load(self._path(prompt, dtype).read_bytes()).get(_NAME)
        except (OSError, ValueError, SafetensorError):
            return None
        if found is None or tuple(found.shape) != shape or found.dtype != dtype:
            return None
        return found if bool(torch.isfinite(found).all()) else None

    def keep(self, prompt: str, embedding: Tensor) -> None:
        """Write an embedding (L, D), if the folder may grow."""
        if not self.grows:
            return
        try:
            self.folder.mkdir(exist_ok=True)
            if sum(1 for _ in self.folder.iterdir()) < _MOST:
                data = safetensors.torch.save({_NAME: embedding.cpu().contiguous()})
                write_bytes_atomically(self._path(prompt, embedding.dtype), data)
        except OSError:
            self.grows = False

    def _path(self, prompt: str, dtype: torch.dtype) -> Path:
        name = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / f"{name[:32]}.{short_name(dtype)}.safetensors"
