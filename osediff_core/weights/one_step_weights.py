"""What OSEDiff's trained weights are, independent of the file they came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

FORMAT_VERSION = "1"
# The official code gives each UNet group its own peft adapter; the VAE's only one is called like the first.
ADAPTER_OF_GROUP = {"encoder": "default_encoder", "decoder": "default_decoder", "others": "default_others"}
VAE_ADAPTER = "default_encoder"
# (shape of the UNet's conv_in, width of its prompt embeddings) -> name of the base
KNOWN_BASES = {
    ((320, 4, 3, 3), 1024): "stable-diffusion-2-1-base",
    ((64, 8, 3, 3), 64): "osediff-tiny",
}
DEFAULT_METADATA = {
    "format": "osediff",
    "version": FORMAT_VERSION,
    "timestep": "999",
    "prediction_type": "epsilon",
}


class LoRAPair(NamedTuple):
    """The two factors of one module's update, rank r.

    Linear: A (r, in), B (out, r). Conv2d: A (r, in, kh, kw), B (out, r, 1, 1).
    """

    A: Tensor
    B: Tensor


@dataclass
class OSEDiffWeights:
    """LoRA of the UNet and the VAE, the UNet's own `conv_in`, and what is needed to use and re-save them.

    `unet_lora` and `vae_lora` map a module's name (diffusers' names) to its pair, in the order of the model's
    state dict. `conv_in` is {"weight": (out, in, 3, 3), "bias": (out,)} and replaces the base's, or {} if the
    base's own is used. `unet_groups` are the official lists "encoder", "decoder", "others"; `vae_modules` is
    the official list with its duplicates, kept so that an official file can be written back unchanged.
    `metadata` holds strings: format, version, base, timestep, prediction_type, and whatever else a writer
    added. `source` names the file in messages. `missing` and `unexpected` are tensor names by which the file
    contradicts its own lists; reading keeps them so that `lora.check_fits` can report them together with what
    does not fit a base.
    """

    unet_lora: dict[str, LoRAPair]
    vae_lora: dict[str, LoRAPair]
    conv_in: dict[str, Tensor]
    rank_unet: int
    rank_vae: int
    unet_groups: dict[str, list[str]]
    vae_modules: list[str]
    metadata: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_METADATA))
    source: str = "these weights"
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def timestep(self) -> int:
        """The one diffusion timestep the weights were trained at (999 officially)."""
        return int(self.metadata.get("timestep", DEFAULT_METADATA["timestep"]))

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon" (official) or "v_prediction"."""
        return self.metadata.get("prediction_type", DEFAULT_METADATA["prediction_type"])

    @property
    def group_of(self) -> dict[str, str]:
        """UNet module name -> "encoder" | "decoder" | "others"."""
        return {module: group for group, modules in self.unet_groups.items() for module in modules}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under the names of our .safetensors format, in state-dict order."""
        named = {f"unet.conv_in.{name}": tensor for name, tensor in self.conv_in.items()}
        for part, pairs in (("unet", self.unet_lora), ("vae", self.vae_lora)):
            for module, pair in pairs.items():
                named[f"{part}.{module}.lora_A.weight"] = pair.A
                named[f"{part}.{module}.lora_B.weight"] = pair.B
        return named


def common_rank(pairs: Mapping[str, LoRAPair]) -> int | None:
    """The rank most pairs have, or None without pairs; a single odd tensor must not decide for all others."""
    votes = Counter(pair.A.shape[0] for pair in pairs.values() if pair.A.ndim)
    return votes.most_common(1)[0][0] if votes else None


def guess_base(unet_lora: Mapping[str, LoRAPair], conv_in: Mapping[str, Tensor]) -> str:
    """Name of the base the shapes speak for, as official files do not say: one of KNOWN_BASES or "unknown"."""
    conv = conv_in.get("weight")
    cross = next((pair.A for name, pair in unet_lora.items() if name.endswith("attn2.to_k")), None)
    if conv is None or cross is None:
        return "unknown"
    return KNOWN_BASES.get((tuple(conv.shape), cross.shape[-1]), "unknown")
