"""Files of light decoders for Stable Diffusion's latents: which one a file holds, and its tensors.

Of AdcSR and VOSR it is Stable Diffusion's decoder at half the width, of TAESD a small network without norms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CheckpointError, counted
from .tensor_file import Shape, TensorFile, shapes_of

ADCSR, VOSR, TAESD = "AdcSR's half decoder", "VOSR's light decoder", "TAESD's decoder"
_OF_TAESD = re.compile(r"(?:taesd_)?(?:decoder\.)?(layers\.)?(\d+)\.(?:conv\.\d+\.)?(?:weight|bias)")
_LAYERS = ("conv_in.weight", "mid_block.resnets.0.conv1.weight", "up_blocks.0.resnets.0.conv1.weight")
_ENDS = ("conv_norm_out.weight", "conv_out.weight")


@dataclass(frozen=True)
class DecoderWeights:
    """The tensors of a light decoder, by diffusers' names (Decoder's, of TAESD DecoderTiny's).

    kind: ADCSR, VOSR or TAESD. post_quant_conv: whether the VAE's comes before it.
    """

    kind: str
    tensors: dict[str, Tensor]
    source: str

    @property
    def post_quant_conv(self) -> bool:
        """As it was trained."""
        return self.kind == ADCSR

    @property
    def latent_channels(self) -> int:
        """Of the latents that it takes."""
        return self.tensors["layers.0.weight" if self.kind == TAESD else "conv_in.weight"].shape[1]

    @property
    def widths(self) -> list[int]:
        """Channels of the resolutions, from the image's to the latents'; of the half decoders only."""
        levels = 1 + max(int(name.split(".")[1]) for name in self.tensors if name.startswith("up_blocks."))
        last = [self.tensors[f"up_blocks.{i}.resnets.0.conv2.weight"].shape[0] for i in range(levels)]
        return last[::-1]

    @property
    def layers_per_block(self) -> int:
        """Resnets of a resolution of the encoder, which is one fewer than of the decoder; of the half decoders only."""
        return max(int(n.split(".")[3]) for n in self.tensors if n.startswith("up_blocks.0.resnets."))

    @property
    def downscale(self) -> int:
        """Image pixels per latent along each axis."""
        return 8 if self.kind == TAESD else 2 ** (len(self.widths) - 1)

    def check(self, tensors: Mapping[str, Tensor], wanted: Mapping[str, Shape]) -> None:
        """As `check_whole`, of the tensors under whatever names."""
        check_whole(f"{self.source} is not whole as {self.kind}", tensors, wanted)


def check_whole(finding: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Shape]) -> None:
    """Compare tensors with a network's. Raises CheckpointError, which begins with `finding`, for what is wrong."""
    found = shapes_of(tensors)
    kinds = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": sorted(n for n in wanted.keys() & found.keys() if wanted[n] != found[n]),
        "not finite": sorted(n for n, tensor in tensors.items() if not torch.isfinite(tensor).all()),
    }
    if any(kinds.values()):
        raise CheckpointError(f"{finding}; download it again; tensors: {counted(kinds)}.")


def decoder_in(file: TensorFile, kind: str) -> DecoderWeights:
    """The decoder of that kind in a file of it, its tensors mapped."""
    tensors = _of_taesd(file.tensors()) if kind == TAESD else _of_decoder(file.tensors())
    return DecoderWeights(kind, tensors, str(file.path))


def decoder_kind(file: TensorFile) -> str | None:
    """ADCSR, VOSR or TAESD; "" for one of the first two that does not say which; None for any other file."""
    names = set(_short(file.shapes))
    if _is_taesd(file):
        return TAESD
    if not names.issuperset((*_LAYERS, *_ENDS)):
        return None
    shapes = {
        _tail(name): shape for name, shape in file.shapes.items() if "decoder." in name or name in names
    }
    encoder = next((s for n, s in file.shapes.items() if n.endswith("encoder.conv_in.weight")), None)
    if encoder is not None and encoder[0] <= shapes["conv_norm_out.weight"][0]:
        return None  # a whole VAE
    if shapes["conv_out.weight"][0] != 3:
        return None  # a UNet
    keys = set(file.content) if isinstance(file.content, Mapping) else set()
    return VOSR if "model_state_dict" in keys else ADCSR if "state_dict" in keys else ""


def _tail(name: str) -> str:
    return name.rpartition("decoder.")[2]


def _short(names: Mapping[str, object]) -> list[str]:
    """Decoder's own names: of a file that holds more than it, only of those behind "decoder."."""
    inside = [_tail(name) for name in names if "decoder." in name]
    return inside or list(names)


def _of_decoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    inside = {_tail(name): tensor for name, tensor in tensors.items() if "decoder." in name}
    return inside or dict(tensors)


def _is_taesd(file: TensorFile) -> bool:
    matches = [_OF_TAESD.fullmatch(name) for name in file.shapes if "encoder." not in name]
    shapes = list(file.shapes.values())
    return bool(matches) and all(matches) and any(s[:1] == (3,) and len(s) == 4 for s in shapes)


def _of_taesd(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under diffusers' numbers; TAESD's own count its clamp as well."""
    found = {}
    for name, tensor in tensors.items():
        match = _OF_TAESD.fullmatch(name)
        if match is not None and "encoder." not in name:
            number = int(match[2]) - (0 if match[1] else 1)
            found[f"layers.{number}.{name[match.end(2) + 1 :]}"] = tensor
    return found
