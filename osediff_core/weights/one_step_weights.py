"""The trained weights of a one-step method, independent of the file that they came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor


class LoRAPair(NamedTuple):
    """The two factors of one module's update, rank r.

    Linear: A (r, in), B (out, r). Conv2d: A (r, in, kh, kw), B (out, r, 1, 1).
    """

    A: Tensor
    B: Tensor


class LoRASet(dict[str, LoRAPair]):
    """LoRA of one network: module name (diffusers') -> pair, in the order of the network's state dict.

    rank: of its pairs. scale: the factor of every B @ A. name: what tells several sets of one network apart.
    """

    def __init__(
        self,
        pairs: Mapping[str, LoRAPair] | Iterable[tuple[str, LoRAPair]] = (),
        *,
        rank: int = 1,
        scale: float = 1.0,
        name: str = "",
    ) -> None:
        super().__init__(pairs)
        self.rank, self.scale, self.name = rank, float(scale), name

    def tensors(self, part: str) -> dict[str, Tensor]:
        """All factors as "part.module.lora_A.weight"."""
        lead = ".".join(filter(None, (part, self.name)))
        return {
            f"{lead}.{module}.lora_{factor}.weight": tensor
            for module, pair in self.items()
            for factor, tensor in zip("AB", pair, strict=True)
        }

    def map(self, part: str, change: Callable[[str, Tensor], Tensor]) -> LoRASet:
        """A set of what `change(name, tensor)` makes of the tensors, by the names of `tensors`."""
        changed = iter([change(name, tensor) for name, tensor in self.tensors(part).items()])
        pairs = {module: LoRAPair(next(changed), next(changed)) for module in self}
        return LoRASet(pairs, rank=self.rank, scale=self.scale, name=self.name)


@dataclass
class OneStepWeights:
    """Weights that a one-step method trained on its base, and what is needed to use and re-save them.

    method: its name, e.g. "osediff". unet_sets: the UNet's LoRA, all of which is added; most methods have one set,
    `unet_lora`. vae_lora: the VAE's, empty where that is the base's own. conv_in: {"weight": (out, in, 3, 3),
    "bias": (out,)}, which replaces the base's, or {}. metadata: strings: timestep, prediction_type, rule, base, and
    whatever else a writer added. source: names the file in messages. missing, unexpected: names of tensors by which the
    file contradicts its own lists; reading keeps them so that `fit.check_fits` can report them together with what
    does not fit a base. unet_groups, vae_modules: OSEDiff's lists "encoder", "decoder", "others" and of the VAE, the
    latter with its duplicates, so that an official file can be written back unchanged; other methods have none.
    network: all tensors of a method that needs no base, by the names in its file; it then has nothing of the above but
    metadata and source. extra: whatever else a method needs to make its LoRA for a picture (`Method.prepare`).
    """

    method: str
    unet_sets: tuple[LoRASet, ...]
    vae_lora: LoRASet = field(default_factory=LoRASet)
    conv_in: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    source: str = "these weights"
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    unet_groups: dict[str, list[str]] = field(default_factory=dict)
    vae_modules: list[str] = field(default_factory=list)
    network: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)

    @property
    def unet_lora(self) -> LoRASet:
        """The only set of a method that has one."""
        (only,) = self.unet_sets
        return only

    @property
    def rank_unet(self) -> int:
        """The rank of the UNet's only set."""
        return self.unet_lora.rank

    @property
    def rank_vae(self) -> int:
        """The rank of the VAE's LoRA."""
        return self.vae_lora.rank

    @property
    def timestep(self) -> int:
        """The one diffusion timestep that the weights were trained at (999 for the official OSEDiff)."""
        return int(self.metadata["timestep"])

    @property
    def prediction_type(self) -> str:
        """The prediction that the base must make: "epsilon" or "v_prediction"."""
        return self.metadata.get("prediction_type", "epsilon")

    @property
    def rule(self) -> str:
        """The rule for x0 from the UNet's output: the base's prediction type, or "residual", x0 = z - output."""
        return self.metadata.get("rule", self.prediction_type)

    @property
    def group_of(self) -> dict[str, str]:
        """UNet module name -> "encoder" | "decoder" | "others"."""
        return {module: group for group, modules in self.unet_groups.items() for module in modules}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by the names of our .safetensors format, in state-dict order."""
        named = {f"unet.conv_in.{name}": tensor for name, tensor in self.conv_in.items()}
        for lora in self.unet_sets:
            named |= lora.tensors("unet")
        return (
            named
            | self.network
            | {f"extra.{n}": t for n, t in self.extra.items()}
            | self.vae_lora.tensors("vae")
        )

    def map(self, change: Callable[[str, Tensor], Tensor]) -> OneStepWeights:
        """These weights with what `change(name, tensor)` makes of the tensors, by the names of `tensors`."""
        return replace(
            self,
            conv_in={name: change(f"unet.conv_in.{name}", tensor) for name, tensor in self.conv_in.items()},
            unet_sets=tuple(lora.map("unet", change) for lora in self.unet_sets),
            vae_lora=self.vae_lora.map("vae", change),
            extra={name: change(f"extra.{name}", tensor) for name, tensor in self.extra.items()},
            network={name: change(name, tensor) for name, tensor in self.network.items()},
        )


def common_rank(pairs: Mapping[str, LoRAPair]) -> int | None:
    """The rank most pairs have, or None without pairs; a single odd tensor must not decide for all others."""
    votes = Counter(pair.A.shape[0] for pair in pairs.values() if pair.A.ndim)
    return votes.most_common(1)[0][0] if votes else None
