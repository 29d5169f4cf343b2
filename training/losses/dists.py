"""DISTS, a distance of structure and texture (Ding et al., arXiv 2004.07728), and its edge-aware form.

Of each feature map of both images the means are compared (texture) and the covariance (structure):

    DISTS = 1 - sum_channels alpha l + beta s,   l = (2 m_x m_y + c) / (m_x^2 + m_y^2 + c)
                                                 s = (2 cov_xy + c) / (var_x + var_y + c)

The edge-aware form (EA-DISTS of D3SR, arXiv 2410.04224) adds the DISTS of both images' Sobel magnitudes. A resampled
texture costs little in it, which an L2 or LPIPS loss would blur away.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osediff_core.errors import BaseModelError, OptionError

_CHANNELS = (3, 64, 128, 256, 512, 512)  # of the image and of VGG16's five stages
_STAGES = (
    (0, 4),
    (5, 9),
    (10, 16),
    (17, 23),
    (24, 30),
)  # layers of torchvision's features; each pool lies between
_C = 1e-6
_LITE_BLOCKS = (0, 2, 4, 10, 14)  # the last block at each of EfficientNet's five scales

Features = Callable[[Tensor], list[Tensor]]  # image in [0, 1] -> maps, the image itself among them


class DISTS(nn.Module):
    """Two (B, 3, H, W) in [-1, 1] -> (B,), 0 for equal ones; gradients reach the first alone.

    features: of an image in [0, 1]. alpha, beta: (sum of the maps' channels,), the weights of texture and structure.
    edges: add the distance of the Sobel magnitudes.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self, features: nn.Module, alpha: Tensor, beta: Tensor, edges: bool = False) -> None:
        super().__init__()
        whole = alpha.sum() + beta.sum()
        self.features, self.edges = features, edges
        self.register_buffer("alpha", alpha.float() / whole, persistent=False)
        self.register_buffer("beta", beta.float() / whole, persistent=False)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """As the class says; the weights of the two distances of the edge-aware form are equal."""
        image, reference = (image + 1) / 2, (reference.detach() + 1) / 2
        distance = self._distance(image, reference)
        return distance + self._distance(sobel(image), sobel(reference)) if self.edges else distance

    def _distance(self, image: Tensor, reference: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = self.features(reference)
        ours = self.features(image)
        sizes = [feature.shape[1] for feature in ours]
        similar = ours[0].new_zeros(len(ours[0]))
        parts = zip(ours, theirs, self.alpha.split(sizes), self.beta.split(sizes), strict=True)
        for x, y, alpha, beta in parts:
            texture, structure = similarity(_precise(x), _precise(y))
            similar = similar + texture @ alpha.to(texture) + structure @ beta.to(structure)
        return 1 - similar


def _precise(x: Tensor) -> Tensor:
    """A covariance is a small difference of large numbers: not in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Texture and structure of two maps (B, C, h, w), (B, C) each, at most 1."""
    m_x, m_y = x.mean(dim=(2, 3)), y.mean(dim=(2, 3))
    var_x, var_y = x.var(dim=(2, 3), correction=0), y.var(dim=(2, 3), correction=0)
    covariance = (x * y).mean(dim=(2, 3)) - m_x * m_y
    texture = (2 * m_x * m_y + _C) / (m_x.square() + m_y.square() + _C)
    return texture, (2 * covariance + _C) / (var_x + var_y + _C)


def sobel(image: Tensor) -> Tensor:
    """The magnitude of each channel's gradient: (B, C, H, W) -> the same shape, up to 4 sqrt(2) for [0, 1]."""
    rows = torch.tensor([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]], device=image.device)
    channels = image.shape[1]
    kernels = torch.stack([rows, rows.T])[:, None].repeat(channels, 1, 1, 1).to(image.dtype)
    both = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), kernels, groups=channels)
    # the root's slope at 0 is infinite, and flat areas are common
    return (both.unflatten(1, (channels, 2)).square().sum(dim=2) + 1e-6).sqrt()


class VGGFeatures(nn.Module):
    """The image and the last ReLU of VGG16's five stages, with L2 pooling by a Hanning window instead of the maxima.

    state: torchvision's "features.N.weight" and so on.
    """

    mean: Tensor
    std: Tensor
    window: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        import torchvision

        layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
        layers.load_state_dict({key.removeprefix("features."): tensor for key, tensor in state.items()})
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # a stage's output is kept, too
        self.stages = nn.ModuleList(layers[first:last] for first, last in _STAGES)
        hanning = torch.hann_window(5, periodic=False)[1:-1]
        window = hanning[:, None] * hanning
        self.register_buffer("window", window / window.sum(), persistent=False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> six maps."""
        found, hidden = [image], (image - self.mean) / self.std
        for index, stage in enumerate(self.stages):
            hidden = stage(hidden if index == 0 else self._pooled(hidden))
            found.append(hidden)
        return found

    def _pooled(self, hidden: Tensor) -> Tensor:
        kernel = self.window.to(hidden.dtype).expand(hidden.shape[1], 1, 3, 3)
        pooled = F.conv2d(hidden.square(), kernel, stride=2, padding=1, groups=hidden.shape[1])
        return (pooled + 1e-12).sqrt()


class LiteFeatures(nn.Module):
    """The image and EfficientNet-Lite0's maps at its five scales."""

    def __init__(self) -> None:
        super().__init__()
        from osediff_core.evaluate.perceptual import FeatureDistance

        self.net = FeatureDistance(0, _LITE_BLOCKS)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> six maps."""
        return [image, *self.net.maps(image * 2 - 1)]


def dists_vgg(state: Mapping[str, Tensor], weights: Path | None, edges: bool) -> DISTS:
    """The published metric. state: VGG16's, as torchvision publishes it. weights: the file of alpha and beta; None for
    what `find_weights` finds. Raises OptionError where there is none, or it holds something else.
    """
    alpha, beta = _read_weights(weights or find_weights())
    return DISTS(VGGFeatures(state), alpha, beta, edges)


def dists_lite(edges: bool) -> DISTS:
    """With EfficientNet-Lite0, which pip installs, and equal weights, as no one has fitted any to its features."""
    features = LiteFeatures()
    with torch.no_grad():
        channels = sum(map_.shape[1] for map_ in features(torch.zeros(1, 3, 64, 64)))
    return DISTS(features, torch.ones(channels), torch.ones(channels), edges)


def find_weights() -> Path:
    """The file of the published alpha and beta: of the package dists-pytorch, or where piq and pyiqa keep it."""
    spec = importlib.util.find_spec("DISTS_pytorch")
    hub = Path(torch.hub.get_dir())
    places = (
        [Path(folder) / "weights.pt" for folder in (spec.submodule_search_locations or ())] if spec else []
    )
    places += [hub / "checkpoints" / "dists_weights.pt", *sorted((hub / "pyiqa").glob("DISTS_weights*.pth"))]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise OptionError(
            "DISTS needs its 12 kB of alpha and beta; run pip install dists-pytorch, which brings them, give their "
            "file as loss.dists_weights, or take dists-lite0."
        )
    return found


def _read_weights(path: Path) -> tuple[Tensor, Tensor]:
    from osediff_core.backends.read_base import read_tensors

    try:
        state = read_tensors(path)
    except BaseModelError as error:
        raise OptionError(f"{str(error).partition(';')[0]}; give the published file of DISTS.") from error
    alpha, beta = (state.get(name) for name in ("alpha", "beta"))
    if alpha is None or beta is None or not alpha.numel() == beta.numel() == sum(_CHANNELS):
        raise OptionError(
            f"{path} does not hold DISTS's alpha and beta of {sum(_CHANNELS)} numbers each; give the published file."
        )
    return alpha.flatten(), beta.flatten()
