"""A discriminator on frozen features of images: random projections, a small head at each scale.

As in Projected GANs (Sauer et al., arXiv 2111.01007): a network that knows images is never trained, its maps of several
depths are mixed by fixed random 1x1 convolutions and from deep to shallow, and a head judges each place of each map.
S3Diff and OMGSR train one-step restoration against such heads on DINO's features. Heads are kept Lipschitz by
dividing each weight by its largest singular value (Miyato et al., arXiv 1802.05957).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from osediff_core.backends.base_configs import read_json
from osediff_core.errors import BaseModelError, OptionError, first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Kind = Literal["hinge", "non-saturating"]
LITE = "efficientnet-lite0"

LITE_BLOCKS = (2, 4, 10, 14)  # the last block of the scales 1/4, 1/8, 1/16, 1/32
_WIDTH = 64


class ProjectedDiscriminator(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> logits of "real" (B, places), of all scales.

    features: gives maps (B, C, h, w) from shallow to deep; it is frozen and no part of the module, so that a checkpoint
    holds the heads alone. The projections are drawn from `seed` and not trained.
    """

    def __init__(
        self, features: nn.Module, channels: Sequence[int], seed: int = 0, width: int = _WIDTH
    ) -> None:
        super().__init__()
        self._frozen = (features.eval().requires_grad_(False),)
        generator = torch.Generator().manual_seed(seed)
        self.projections = nn.ModuleList(_random(width, count, generator) for count in channels)
        self.mixers = nn.ModuleList(_random(width, width, generator) for _ in channels[1:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(_head(width) for _ in channels)

    def forward(self, image: Tensor) -> Tensor:
        """The class's docstring."""
        (features,) = self._frozen
        return self.judge(features(image))

    def judge(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits of an image whose maps are at hand."""
        mixed, deeper = [], None
        levels = list(zip(maps, self.projections, strict=True))
        for index in reversed(range(len(levels))):
            map_, project = levels[index]
            found = project(map_.to(next(project.parameters()).dtype))
            if deeper is not None:
                enlarged = F.interpolate(self.mixers[index](deeper), found.shape[-2:], mode="bilinear")
                found = found + enlarged
            deeper = found
            mixed.append(found)
        return torch.cat(
            [head(m).flatten(1) for head, m in zip(self.heads, reversed(mixed), strict=True)], dim=1
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ProjectedDiscriminator:
        """Moves the frozen network, too."""
        self._frozen[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


def generator_loss(logits: Tensor, kind: Kind) -> Tensor:
    """What the generator is told of its images' logits: -D (hinge) or softplus(-D) (non-saturating)."""
    return -logits.mean() if kind == "hinge" else F.softplus(-logits).mean()


def discriminator_loss(real: Tensor, restored: Tensor, kind: Kind) -> Tensor:
    """What the discriminator learns from the logits of real and of restored images."""
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + restored).mean()
    return F.softplus(-real).mean() + F.softplus(restored).mean()


def projected_discriminator(features: str, seed: int = 0) -> ProjectedDiscriminator:
    """On the features of "efficientnet-lite0", or of the transformers model in the folder `features` (DINOv2, DINOv3).

    Raises OptionError for a folder that holds none, or a package that is missing. Nothing is downloaded.
    """
    network: nn.Module
    try:
        network = _LiteMaps() if features == LITE else TransformersMaps(Path(features))
    except ImportError as error:
        raise OptionError(
            f"The discriminator on {LITE} needs the package {error.name}; run pip install 'osediff[train]'."
        ) from error
    with torch.no_grad():
        channels = [map_.shape[1] for map_ in network(torch.zeros(1, 3, 224, 224))]
    return ProjectedDiscriminator(network, channels, seed)


class _LiteMaps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from osediff_core.evaluate.perceptual import FeatureDistance

        self.net = FeatureDistance(0, LITE_BLOCKS)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> four maps."""
        return self.net.maps(image)


class TransformersMaps(nn.Module):
    """Maps of four depths of a vision model of transformers: DINOv2 and DINOv3 as ViT, or DINOv3 as ConvNeXt.

    folder: as `save_pretrained` writes it, or as the hub has it. Raises OptionError.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        if not (folder / "config.json").is_file():
            raise OptionError(
                f"{folder} has no config.json; give {LITE}, or the folder of a DINOv2 or DINOv3 model as transformers "
                "saves it."
            )
        try:
            self.net = AutoModel.from_pretrained(
                folder, config=_plain_config(folder), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
            raise OptionError(
                f"{folder} holds no model that transformers can read ({first_line(error)}); give the folder of a "
                "DINOv2 or DINOv3 model."
            ) from error
        self.patch = getattr(self.net.config, "patch_size", None) or 1
        # of ImageNet, which both DINOs take
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)
        with torch.no_grad():
            try:
                self(torch.zeros(1, 3, 224, 224))
            except (TypeError, AttributeError, ValueError, RuntimeError) as error:
                raise OptionError(
                    f"{folder} holds a {type(self.net).__name__}, which gives no maps of an image; give the folder of "
                    "a DINOv2 or DINOv3 model."
                ) from error

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> four maps; sides that the patches do not divide are shrunk to fit."""
        height, width = (max(side // self.patch, 1) * self.patch for side in image.shape[-2:])
        pixels = ((image + 1) / 2 - self.mean) / self.std
        if (height, width) != tuple(image.shape[-2:]):
            pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
        hidden = self.net(pixel_values=pixels, output_hidden_states=True).hidden_states
        chosen = [hidden[round(share * (len(hidden) - 1))] for share in (0.25, 0.5, 0.75, 1.0)]
        return [self._as_map(h, height // self.patch, width // self.patch) for h in chosen]

    def _as_map(self, hidden: Tensor, rows: int, columns: int) -> Tensor:
        if hidden.ndim == 4:  # ConvNeXt
            return hidden
        if hidden.ndim != 3 or hidden.shape[1] < rows * columns:
            raise ValueError("no token for each patch")
        # the class token and registers come first
        return hidden[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def _plain_config(folder: Path) -> PretrainedConfig:
    """What describes the network, without what makes transformers fetch or run code: kernels, quantisers, classes.

    Raises OptionError, or what transformers raises for values that cannot be.
    """
    from transformers import AutoConfig

    try:
        values = read_json(folder / "config.json")
    except BaseModelError as error:
        raise OptionError(str(error)) from error
    kind = str(values.pop("model_type", None))
    known = AutoConfig.for_model(kind).to_dict().keys()
    orders = {key for key in known if key.startswith("_") or "implementation" in key or "quantization" in key}
    return AutoConfig.for_model(kind, **{key: values[key] for key in values.keys() & known - orders})


class SpectralNorm(nn.Module):
    """A weight divided by its largest singular value, computed anew: an estimate kept from step to step would be state
    that a checkpoint must hold."""

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in, kh, kw) -> the same shape."""
        return weight / torch.linalg.matrix_norm(weight.flatten(1), 2).clamp_min(1e-12)


def _random(out: int, into: int, generator: torch.Generator) -> nn.Conv2d:
    """A fixed 1x1 convolution with a fresh layer's variance."""
    layer = nn.Conv2d(into, out, 1, bias=False, device="meta").to_empty(device="cpu").requires_grad_(False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / into**0.5)
    return layer


def _head(width: int) -> nn.Sequential:
    layers = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 1, 1)
    for layer in layers:
        register_parametrization(layer, "weight", SpectralNorm())
    return nn.Sequential(layers[0], nn.LeakyReLU(0.2), layers[1])
