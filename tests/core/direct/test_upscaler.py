"""Upscalers of other kinds, which spandrel reads: small random ones in the files that their trainers write."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mini_models.upscalers import esrgan, esrgan_tensors
from refusals import refused
from safetensors.torch import save_file
from torch import Tensor

pytest.importorskip("spandrel", reason="the eval extra is not installed")

from osediff_core import Picture, RestoreOptions, load_model, restore_picture
from osediff_core.direct.restorer import upscale
from osediff_core.errors import CheckpointError, OptionError
from osediff_core.tiles.unet import UNetTiling
from osediff_core.weights.identify import identify


def write(folder: Path, form: str) -> Path:
    """The ESRGAN in one of the forms that are about."""
    tensors = esrgan_tensors()
    path = folder / ("net.safetensors" if form == "safetensors" else "net.pth")
    if form == "safetensors":
        save_file(tensors, path)
        return path
    half = {name: tensor.half() for name, tensor in tensors.items()}
    other = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    content = {
        "plain": tensors,
        "params": {"params": tensors},
        "ema": {"params": other, "params_ema": tensors},  # the average is what is published for use
        "module": {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}, "epoch": 3},
        "half": half,
        "legacy": tensors,
    }[form]
    torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    return path


def lq(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(7)) * 2 - 1


@pytest.mark.parametrize("form", ["plain", "params", "ema", "module", "half", "legacy", "safetensors"])
def test_an_esrgan_in_whatever_file(form: str, tmp_path: Path) -> None:
    path = write(tmp_path, form)
    assert identify(path).kind == "upscaler" and "without a base" in identify(path).use
    restorer = load_model("nowhere", path, dtype="fp32", device="cpu")
    assert (restorer.scale, restorer.method.title) == (4, "ESRGAN")
    image = lq(13, 18)
    expected = esrgan(esrgan_tensors(), (image + 1) / 2) * 2 - 1
    bar = 2e-3 if form == "half" else 1e-5
    torch.testing.assert_close(upscale(restorer, image), expected, rtol=0, atol=bar)
    picture = Picture(np.random.default_rng(1).random((9, 11, 3)).astype(np.float32))
    assert restore_picture(restorer, picture, RestoreOptions(scale=3, color_fix="none")).size == (33, 27)


@pytest.mark.parametrize("scale", [1, 2, 3])
@torch.inference_mode()
def test_other_scales_in_tiles(scale: int, tmp_path: Path) -> None:
    """Where tiles overlap by more than the network sees, they give what the whole image does."""
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    torch.save(
        {"params": SRVGGNetCompact(num_feat=8, num_conv=1, upscale=scale).state_dict()}, tmp_path / "c.pth"
    )
    restorer = load_model(weights=tmp_path / "c.pth", dtype="fp32", device="cpu")
    image, steps = lq(64, 96), []
    whole = upscale(restorer, image)
    assert whole.shape[-2:] == (64 * scale, 96 * scale)
    tiles = upscale(restorer, image, tiling=UNetTiling(8, 4), progress=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1] > 1
    # the weights of a tile's last pixels, which do not see beyond it, are about 1e-5
    torch.testing.assert_close(tiles, whole, rtol=0, atol=2e-2)
    assert (tiles - whole).abs().mean() < 1e-4


def test_what_is_no_upscaler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = esrgan_tensors()
    torch.save({name: t for name, t in tensors.items() if "rdb2" not in name}, tmp_path / "part.pth")
    with refused(CheckpointError, "an upscaler network such as ESRGAN, but"):
        load_model(weights=tmp_path / "part.pth")
    torch.save({"conv_first.weight": torch.zeros(3)}, tmp_path / "odd.pth")
    with refused(CheckpointError, "an upscaler network such as ESRGAN, but"):
        load_model(weights=tmp_path / "odd.pth")
    torch.save({"nothing.like.it": torch.zeros(3)}, tmp_path / "foreign.pth")
    with refused(CheckpointError, "is an unknown kind of model, not OSEDiff weights"):
        load_model(weights=tmp_path / "foreign.pth")
    path = write(tmp_path, "plain")
    with refused(OptionError, "ESRGAN has no strength"):
        load_model(weights=path, fidelity=0.5)
    with refused(OptionError, "ESRGAN takes no decoder"):
        load_model(weights=path, decoder="halfDecoder.ckpt")
    with refused(OptionError, "ESRGAN reads no prompt"):
        restore_picture(
            load_model(weights=path), Picture(np.zeros((4, 4, 3), np.float32)), RestoreOptions(prompt="a")
        )
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with refused(CheckpointError, "pip install spandrel"):
        load_model(weights=path)
    with refused(CheckpointError, "is an unknown kind of model"):
        load_model(weights=tmp_path / "foreign.pth")


def test_no_code_in_an_upscalers_file_is_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'harm')!r}, 'w')",)

    torch.save({"params": esrgan_tensors(), "more": Harm()}, tmp_path / "net.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"params": Harm()}))
    for name in ("net.pth", "plain.pth"):
        with refused(CheckpointError):
            load_model(weights=tmp_path / name)
    assert not (tmp_path / "harm").exists()
