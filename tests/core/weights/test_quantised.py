"""fp8, plain and with ComfyUI's scales: the values that stand behind it, or a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from mini_models.golden import MiniModel
from refusals import refused
from safetensors.torch import load_file, save_file
from torch import Tensor

from osediff_core.backends.find_base import PACKAGED
from osediff_core.backends.load_base import load_base
from osediff_core.errors import BaseModelError, CheckpointError
from osediff_core.weights.checkpoint import read_weights, write_weights
from osediff_core.weights.describe import describe
from osediff_core.weights.tensor_file import TensorFile

FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
VALUES = torch.tensor([[0.5, -1.75], [3.5, 0.015625]])  # in both exact
SCALE = torch.tensor(0.3)
LAYOUTS = {
    "plain": {},
    "until 2025": {"l.scale_weight": SCALE, "l.scale_input": torch.ones(()), "scaled_fp8": torch.zeros(2)},
    "since": {"l.weight_scale": SCALE.reshape(1), "l.input_scale": torch.ones(())},
    "each output": {"l.weight_scale": torch.tensor([[0.3], [2.0]])},
    "with its name": {
        "l.weight_scale": SCALE,
        "l.comfy_quant": torch.tensor(
            list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8
        ),
    },
}


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors}, path)
    return path


@pytest.mark.parametrize("dtype", FP8, ids=str)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_values_are_the_scaled_ones(tmp_path: Path, dtype: torch.dtype, suffix: str, layout: str) -> None:
    extra = LAYOUTS[layout]
    stored = {"l.weight": VALUES.to(dtype), "l.bias": torch.ones(2), **extra}
    file = TensorFile.open(write(tmp_path / f"w{suffix}", stored))
    scale = next(
        (t for name, t in extra.items() if name.endswith(("scale_weight", "weight_scale"))), torch.ones(())
    )
    read = [
        file.tensors(),
        dict(file.in_pieces(file.shapes)),
        {name: file.tensor(name) for name in file.shapes},
    ]
    for tensors in read:
        assert list(tensors) == list(file.shapes) and set(tensors) == {"l.weight", "l.bias"}
        assert torch.equal(tensors["l.weight"].float(), VALUES * scale)
        assert tensors["l.bias"].dtype == torch.float32


@pytest.mark.parametrize(
    "tensors",
    [
        {"l.weight": torch.ones(2, 2, dtype=torch.int8), "l.weight_scale": SCALE},
        {
            "l.weight": torch.ones(2, 1, dtype=torch.uint8),
            "l.weight_scale": VALUES.to(FP8[0]),
            "l.weight_scale_2": SCALE,
        },
        {"l.weight": VALUES.to(FP8[0]), "l.weight_scale": torch.ones(2, 2)},
        {"l.weight": VALUES.to(FP8[0]), "l.weight_scale_inv": torch.ones(1, 1)},
        {"l.weight": torch.ones(4, 1, dtype=torch.uint8), "l.weight.absmax": torch.ones(2)},
        {"l.qweight": torch.ones(2, 2, dtype=torch.int32), "l.qzeros": torch.ones(2, 2, dtype=torch.int32)},
    ],
    ids=["int8", "nvfp4", "blocks", "inverse", "bitsandbytes", "gptq"],
)
def test_other_layouts_are_said(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = write(tmp_path / "w.safetensors", tensors)
    with refused(CheckpointError, path, "quantised in a way that is not read here"):
        TensorFile.open(path).tensors()


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_weights_in_fp8_are_read_and_converted(mini: MiniModel, tmp_path: Path, dtype: torch.dtype) -> None:
    whole = read_weights(mini.weights)
    write_weights(tmp_path / "w.safetensors", whole)
    file = TensorFile.open(tmp_path / "w.safetensors")
    save_file(
        {k: v.to(dtype) for k, v in file.tensors().items()}, tmp_path / "fp8.safetensors", dict(file.metadata)
    )
    content = torch.load(mini.weights, weights_only=True)
    for part in ("state_dict_unet", "state_dict_vae"):
        content[part] = {k: v.to(dtype) for k, v in content[part].items()}
    torch.save(content, tmp_path / "fp8.pkl")
    for name in ("fp8.safetensors", "fp8.pkl"):
        found = read_weights(tmp_path / name).tensors()
        for key, tensor in whole.tensors().items():
            assert found[key].dtype == torch.float16
            assert torch.equal(found[key], tensor.to(dtype).half()), key
    assert set(describe(tmp_path / "fp8.safetensors")["dtypes"]) == {str(dtype).removeprefix("torch.")}


@pytest.mark.parametrize("scaled", [False, True])
def test_a_base_in_fp8_is_the_base_of_its_values(tmp_path: Path, scaled: bool) -> None:
    base = Path(shutil.copytree(PACKAGED["tiny"], tmp_path / "base"))
    unet = base / "unet" / "diffusion_pytorch_model.safetensors"
    tensors, stored, wanted = load_file(unet), {}, {}
    for name, tensor in tensors.items():
        stored[name] = wanted[name] = tensor.clone()
        if tensor.ndim > 1:
            scale = tensor.float().abs().max() / 448 if scaled else torch.tensor(1.0)
            stored[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            wanted[name] = stored[name].float() * scale
            if scaled:
                stored[name.replace(".weight", ".scale_weight")] = scale
    unet.unlink()
    save_file(stored, unet)
    loaded = load_base(base, "fp32", "cpu").unet.module.state_dict()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in wanted.items())


def test_a_quantised_base_is_named(tmp_path: Path) -> None:
    base = Path(shutil.copytree(PACKAGED["tiny"], tmp_path / "base"))
    unet = base / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = {k: v.clone() for k, v in load_file(unet).items()}
    unet.unlink()
    save_file({**tensors, "conv_in.weight.absmax": torch.ones(3)}, unet)
    with refused(BaseModelError, "quantised in a way that is not read here"):
        load_base(base, "fp32", "cpu")
