"""The metrics by name, and how each is computed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..errors import OptionError, first_line
from .metric import ImageMeasure, Measure, Metric, MetricUnavailable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LUMA = "Y of YCbCr (BT.601), no border crop"
METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR", True, True, 2, "torchmetrics", _LUMA, unit="dB"),
        Metric("ssim", "SSIM", True, True, 4, "torchmetrics", _LUMA, least=11),
        Metric("lpips", "LPIPS", False, True, 4, "pyiqa", "0.1, AlexNet", least=32),
        Metric("dists", "DISTS", False, True, 4, "pyiqa", "VGG16", least=16),
        Metric("fid", "FID", False, True, 2, "pyiqa", "clean, of all pictures together", of_set=True),
        Metric("niqe", "NIQE", False, False, 4, "pyiqa", "blocks of 96 px", least=96),
        Metric("maniqa", "MANIQA", True, False, 4, "pyiqa", "maniqa-pipal"),
        Metric("musiq", "MUSIQ", True, False, 2, "pyiqa", "KonIQ-10k", least=32),
        Metric("clipiqa", "CLIPIQA", True, False, 4, "pyiqa", "RN50", least=32),
        Metric("d2", "D2", False, True, 4, "efficientnet-lite", "blocks 4 to 10 of Lite2", least=32),
    )
}
# "osediff": those of the paper's Table 1, with the settings of the official evaluation
PRESETS = {"osediff": ("psnr", "ssim", "lpips", "dists", "fid", "niqe", "maniqa", "musiq", "clipiqa")}
DEFAULT = ("osediff", "d2")
_PACKAGES = {"pkg_resources": "'setuptools<82'"}  # of modules that have another name
# by which results are ordered from worst to best: the first of these that is there
ORDER = ("lpips", "d2", "dists", "ssim", "psnr", "musiq", "maniqa", "clipiqa", "niqe")


def parse_metrics(names: str | Iterable[str]) -> list[Metric]:
    """Metrics from names and presets, each once: a list, or one text with commas or spaces between.

    Raises OptionError for an unknown name or none at all.
    """
    words = re.split(r"[\s,;]+", names.strip()) if isinstance(names, str) else list(names)
    wanted = [name.lower() for word in words if word for name in PRESETS.get(word.lower(), (word,))]
    unknown = [name for name in wanted if name not in METRICS]
    if unknown or not wanted:
        what = f"There is no metric {unknown[0]!r}" if unknown else "No metric is named"
        raise OptionError(f"{what}; choose from {', '.join([*PRESETS, *METRICS])}.")
    return [METRICS[name] for name in dict.fromkeys(wanted)]


def load_measure(metric: Metric, device: torch.device, allow_download: bool = False) -> Measure:
    """The function that computes `metric`. Raises MetricUnavailable if a package or weights are not here."""
    try:
        if metric.library == "pyiqa":
            from .pyiqa_metrics import measure

            return measure(metric, device, allow_download)
        return _feature_distance(device) if metric.name == "d2" else _fidelity(metric.name)
    except ImportError as error:
        module = (error.name or first_line(error)).partition(".")[0]
        package = _PACKAGES.get(module, module)
        raise MetricUnavailable(
            f"{metric.title} needs the Python package {module}; run pip install {package}, or pip install "
            "'osediff[eval]' for all metrics."
        ) from error


def _fidelity(name: str) -> ImageMeasure:
    from .psnr_ssim import psnr_y, ssim_y

    # on the CPU: SSIM is computed in fp64, which not every accelerator has
    if name == "ssim":
        return _of_truth(ssim_y)
    # 80 dB is what pyiqa gives for equal pictures
    return _of_truth(lambda image, truth: psnr_y(image, truth).clamp(max=80))


def _feature_distance(device: torch.device) -> ImageMeasure:
    from .perceptual import FeatureDistance

    distance = FeatureDistance(2).to(device)
    return _of_truth(lambda image, truth: distance(image.to(device), truth.to(device)))


def _of_truth(compare: Callable[[Tensor, Tensor], Tensor]) -> ImageMeasure:
    """The measure that `compare` (two images (1, 3, H, W) -> (1,)) is."""

    def measure(image: Tensor, truth: Tensor | None) -> float:
        if truth is None:
            raise MetricUnavailable("There is no ground truth to compare with; give one.")
        return float(compare(image, truth))

    return measure
