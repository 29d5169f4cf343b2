"""pyiqa's metrics with the settings of the official evaluation; weights that are not on this machine stay away.

pyiqa fetches weights as soon as a metric is made and would unpickle whatever they hold. Here the files that a metric
needs are looked for first; unless a download was allowed, nothing is fetched; and they are read as plain tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import first_line
from ..interrupts import pass_on
from .metric import Measure, Metric, MetricUnavailable

# pyiqa's name and what differs from its defaults
_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "lpips": ("lpips", {}),
    "dists": ("dists", {}),
    "fid": ("fid", {}),
    # the parameters that pyiqa would download, by way of BasicSR (see NOTICE)
    "niqe": ("niqe", {"pretrained_model_path": str(Path(__file__).with_name("niqe_pristine.mat"))}),
    "maniqa": ("maniqa-pipal", {}),
    "musiq": ("musiq", {}),
    "clipiqa": ("clipiqa", {}),
}
# Files below torch hub's folder that must be there for nothing to be fetched; a test compares them with pyiqa's own.
WEIGHTS = {
    "lpips": ("checkpoints/alexnet-owt-7be5be79.pth", "pyiqa/LPIPS_v0.1_alex-df73285e.pth"),
    "dists": ("checkpoints/vgg16-397923af.pth", "pyiqa/DISTS_weights-f5e65c96.pth"),
    "fid": ("pyiqa/pt_inception-2015-12-05-6726825d.pth",),
    "niqe": (),
    "maniqa": ("pyiqa/MANIQA_PIPAL-ae6d356b.pth",),
    "musiq": ("pyiqa/musiq_koniq_ckpt-e95806b9.pth",),
    "clipiqa": ("clip/RN50.pt",),
}
# pyiqa fetches this file again, unasked, if it is not the published one
CLIP_SHA256 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
_VIT = "vit_base_patch8_224"  # of MANIQA; timm keeps it in the hub's cache


def measure(metric: Metric, device: torch.device, allow_download: bool = False) -> Measure:
    """`metric` by pyiqa on 8-bit pictures. FID's takes two folders of pictures instead of two pictures.

    Raises MetricUnavailable where weights are missing, damaged, or could not be fetched; ImportError without pyiqa.
    """
    import pyiqa  # pyright: ignore[reportMissingImports] - of the extra eval

    if not allow_download:
        _check_weights(metric)
    name, options = _SETTINGS[metric.name]
    with (
        _quiet(allow_download),
        _plain_tensors(),
        contextlib.nullcontext() if allow_download else _hub_offline(),
    ):
        try:
            net = pyiqa.create_metric(name, device=device, **options)
        except ImportError:
            raise
        except Exception as error:  # of torch, of timm, of the hub, of any HTTP library
            pass_on(error)
            what = "fetched or read" if allow_download else "read"
            raise MetricUnavailable(
                f"The weights of {metric.title} cannot be {what} ({first_line(error)}); check the connection and the "
                f"files in {torch.hub.get_dir()}."
            ) from error
    if metric.of_set:
        return partial(_of_folders, net)

    def of_pictures(image: Tensor, truth: Tensor | None) -> float:
        return _of_pictures(net, image, truth if metric.truth else None)

    return of_pictures


def _check_weights(metric: Metric) -> None:
    folder = Path(torch.hub.get_dir())
    missing = [name for name in WEIGHTS[metric.name] if not (folder / name).is_file()]
    if metric.name == "maniqa" and not _vit_in_cache():
        missing.insert(0, f"timm's {_VIT} in the hub's cache")
    if missing:
        raise MetricUnavailable(
            f"The weights of {metric.title} are not on this machine ({', '.join(missing)} in {folder}); put them "
            "there, or allow their download (--allow-download, in a graph allow_download)."
        )
    if metric.name == "clipiqa":
        file = folder / WEIGHTS["clipiqa"][0]
        if hashlib.sha256(file.read_bytes()).hexdigest() != CLIP_SHA256:
            raise MetricUnavailable(f"{file} is not the published file; remove it and allow the download.")


def _vit_in_cache() -> bool:
    import timm  # pyright: ignore[reportMissingImports] - pyiqa brings it
    from huggingface_hub import try_to_load_from_cache

    place = timm.get_pretrained_cfg(_VIT)
    if place is None or place.hf_hub_id is None:
        return False
    return isinstance(try_to_load_from_cache(place.hf_hub_id, "model.safetensors"), str)


def _of_pictures(net: torch.nn.Module, image: Tensor, truth: Tensor | None) -> float:
    # exactly k/255, as pyiqa itself reads a file
    pictures = [None if x is None else ((x + 1) * 127.5).round() / 255 for x in (image, truth)]
    with _quiet():
        return float(net(*pictures))


def _of_folders(net: torch.nn.Module, first: Path, second: Path) -> float:
    with _quiet():
        return float(net(str(first), str(second), num_workers=0, verbose=False))


@contextlib.contextmanager
def _quiet(fetching: bool = False) -> Iterator[None]:
    """What pyiqa prints must not stand between our results; what it warns of is about its own code.

    fetching: it may say on stderr what it fetches.
    """
    logging.getLogger("pyiqa").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr if fetching else io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _plain_tensors() -> Iterator[None]:
    """torch.load runs no code of the files inside, also where pyiqa asks it to."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _hub_offline() -> Iterator[None]:
    """The hub's client takes what is in its cache and asks no server for a newer one."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
