"""Text encoder: prompts are tokenised, run through CLIP and remembered."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..runtime.torch_part import TorchPart
from .prompt_store import PromptStore
from .tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPTextModel, PreTrainedTokenizerBase

    from ..ports import PromptEncoder

logger = logging.getLogger(__name__)

REMEMBERED = 64  # prompts; 20 MB at SD 2.1's size in fp32


class ClipPromptEncoder(TorchPart):
    """PromptEncoder over transformers' CLIPTextModel.

    The embedding is the last hidden state after the final LayerNorm, of 77 tokens, padded, without a mask, as
    in the official code. (SD 2.1's encoder has 23 of OpenCLIP's 24 layers, so its last is OpenCLIP's
    penultimate.) The encoder is never trained, so embeddings carry no gradient; the latest are remembered. Its weights
    are moved and cast when a prompt is new, so that known prompts never load them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, module: CLIPTextModel) -> None:
        super().__init__(module)
        self._wanted: tuple[torch.device, torch.dtype] | None = None
        self.tokenizer = tokenizer
        self.length = int(module.config.max_position_embeddings)
        self.store: PromptStore | None = None
        self._remembered: OrderedDict[tuple[str, torch.dtype, torch.device], Tensor] = OrderedDict()

    @classmethod
    def from_folder(cls, tokenizer: Path, module: CLIPTextModel) -> ClipPromptEncoder:
        """Read the tokenizer from a local folder. Raises BaseModelError as `load_tokenizer` does."""
        return cls(load_tokenizer(tokenizer, module.config.vocab_size), module)

    @property
    def module(self) -> CLIPTextModel:
        """The encoder, where and as it is wanted."""
        if self._wanted is not None:
            with torch.inference_mode(False):  # whoever asks: it is used in training, too
                nn.Module.to(self._module, *self._wanted)
            self._wanted = None
        return self._module

    @module.setter
    def module(self, module: CLIPTextModel) -> None:
        self._module = module

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that it computes in."""
        return super().dtype if self._wanted is None else self._wanted[1]

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return super().device if self._wanted is None else self._wanted[0]

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move and cast the weights, as soon as they are needed."""
        self._wanted = (device, dtype)

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Prompts -> input ids (B, 77) int64 on the CPU. What does not fit is cut off, with a warning."""
        for prompt in prompts:
            self._warn_if_cut(prompt)
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        return tokens.input_ids

    def __call__(self, prompts: list[str]) -> Tensor:
        """B prompts -> prompt_embeds (B, 77, D) in the encoder's dtype."""
        where = (self.dtype, self.device)
        at_hand = {p: self._remembered[(p, *where)] for p in prompts if (p, *where) in self._remembered}
        at_hand |= self._stored([p for p in dict.fromkeys(prompts) if p not in at_hand])
        new = [p for p in dict.fromkeys(prompts) if p not in at_hand]
        if new:
            at_hand.update(zip(new, self._embed(new), strict=True))
            if self.store is not None:
                for prompt in new:
                    self.store.keep(prompt, at_hand[prompt])
        self._remember((((p, *where), embedding) for p, embedding in at_hand.items()))
        return torch.stack([at_hand[p] for p in prompts])

    def _stored(self, prompts: list[str]) -> dict[str, Tensor]:
        """Those of the prompts that were kept with the base, with their embeddings."""
        if self.store is None:
            return {}
        shape = (self.length, int(self._module.config.hidden_size))
        found = {prompt: self.store.recall(prompt, shape, self.dtype) for prompt in prompts}
        return {prompt: kept.to(self.device) for prompt, kept in found.items() if kept is not None}

    def _embed(self, prompts: list[str]) -> list[Tensor]:
        # Not under inference mode: what is remembered there could not be used in training afterwards.
        with torch.inference_mode(False), torch.no_grad():
            states = self.module(self.tokenize(prompts).to(self.device)).last_hidden_state
            return [state.clone() for state in states]  # a view would keep the whole batch in memory

    def _remember(self, items: Iterable[tuple[tuple[str, torch.dtype, torch.device], Tensor]]) -> None:
        for key, embedding in items:
            self._remembered[key] = embedding
            self._remembered.move_to_end(key)
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)

    def fits(self, prompt: str) -> bool:
        """Whether the encoder reads the whole prompt."""
        return self._count(prompt) <= self.length

    def _count(self, prompt: str) -> int:
        return len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids)

    def _warn_if_cut(self, prompt: str) -> None:
        count = self._count(prompt)
        if count > self.length:
            logger.warning(
                "the prompt has %d tokens and the text encoder reads %d; its end is left out: %.60s…",
                count,
                self.length,
                prompt,
            )


if TYPE_CHECKING:  # proved by pyright: this is what the port asks for
    _: type[PromptEncoder] = ClipPromptEncoder
