"""pyiqa behind its own door: what it may read and fetch, and NIQE, whose parameters are in the package."""

import pickle
import socket

import numpy as np
import pytest
import torch

pytest.importorskip("pyiqa", reason="the eval extra is not installed")

from osediff_core.evaluate import pyiqa_metrics
from osediff_core.evaluate.metrics import METRICS, MetricUnavailable, load_measure

CPU = torch.device("cpu")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub folder, and no network."""

    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("checkpoints", "pyiqa", "clip"):
        (tmp_path / "hub" / name).mkdir(parents=True)
    # pyiqa asks for the folder once, when it is imported
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path / "hub" / "pyiqa"))
    return tmp_path / "hub"


def picture(side, seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (1, 3, side, side))
    return torch.from_numpy(levels).float() / 127.5 - 1


def put_musiq(hub):
    from pyiqa.archs.musiq_arch import MUSIQ

    torch.save(MUSIQ(pretrained=False).state_dict(), hub / pyiqa_metrics.WEIGHTS["musiq"][0])


def test_the_files_looked_for_are_those_that_pyiqa_would_fetch():
    from pyiqa.archs import dists_arch, inception, lpips_arch, maniqa_arch, musiq_arch
    from pyiqa.archs.clip_model import _MODELS
    from torchvision import models

    urls = {
        "lpips": (models.AlexNet_Weights.IMAGENET1K_V1.url, lpips_arch.default_model_urls["0.1_alex"]),
        "dists": (models.VGG16_Weights.IMAGENET1K_V1.url, dists_arch.default_model_urls["url"]),
        "fid": (inception.FID_WEIGHTS_URL,),
        "niqe": (),
        "maniqa": (maniqa_arch.default_model_urls["pipal"],),
        "musiq": (musiq_arch.default_model_urls["koniq10k"],),
        "clipiqa": (_MODELS["RN50"],),
    }
    names = {metric: [url.rpartition("/")[2] for url in found] for metric, found in urls.items()}
    ours = {metric: [f.rpartition("/")[2] for f in files] for metric, files in pyiqa_metrics.WEIGHTS.items()}
    assert ours == names and pyiqa_metrics.CLIP_SHA256 in _MODELS["RN50"]


@pytest.mark.parametrize("name", [name for name, files in pyiqa_metrics.WEIGHTS.items() if files])
def test_without_weights_nothing_is_fetched(hub, name):
    with pytest.raises(MetricUnavailable, match=r"not on this machine .*--allow-download"):
        load_measure(METRICS[name], CPU)
    assert not [path for path in hub.rglob("*") if path.is_file()]


def test_niqe_needs_no_file(hub, capsys):
    niqe = load_measure(METRICS["niqe"], CPU)
    noise = niqe(picture(200), None)
    assert 5 < noise < 100 and niqe(picture(200), None) == noise
    assert capsys.readouterr().out == ""


def test_weights_that_are_there_are_used(hub, capsys):
    put_musiq(hub)
    musiq = load_measure(METRICS["musiq"], CPU)
    assert np.isfinite(musiq(picture(64), None))
    assert capsys.readouterr().out == ""


def test_weights_are_not_unpickled(hub, tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "boom"), "w")

    (hub / pyiqa_metrics.WEIGHTS["musiq"][0]).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(MetricUnavailable, match="weights of MUSIQ cannot be read"):
        load_measure(METRICS["musiq"], CPU)
    assert not (tmp_path / "boom").exists()


def test_another_file_in_the_place_of_clip_is_refused(hub):
    (hub / "clip" / "RN50.pt").write_bytes(b"half of it")
    with pytest.raises(MetricUnavailable, match=r"RN50\.pt is not the published file"):
        load_measure(METRICS["clipiqa"], CPU)
    assert (hub / "clip" / "RN50.pt").read_bytes() == b"half of it"
