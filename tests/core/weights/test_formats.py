"""Another one-step method, a toy one: what it costs is the file that it would be, and a line in the table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mini_models.networks import MiniModel
from safetensors.torch import save_file
from torch import Tensor

from osediff_core import OneStepGenerator
from osediff_core.backends.load_base import load_base
from osediff_core.errors import BaseModelError, CheckpointError
from osediff_core.weights import formats
from osediff_core.weights.checkpoint import read_weights, write_weights
from osediff_core.weights.describe import describe
from osediff_core.weights.fit import layer_shapes
from osediff_core.weights.formats.format import Format
from osediff_core.weights.identify import identify
from osediff_core.weights.one_step_weights import LoRAPair, LoRASet, OneStepWeights
from osediff_core.weights.tensor_file import TensorFile

# --- the method: two LoRA sets of the UNet, alpha = rank, t = 1, x0 = z - output, conv_in and VAE of the base ---

RANK = 3


def recognise(file: TensorFile) -> bool:
    return any(name.endswith(".lora_A.fine.weight") for name in file.shapes)


def read(file: TensorFile) -> OneStepWeights:
    tensors = file.tensors()

    def lora(adapter: str) -> LoRASet:
        end = f".lora_A.{adapter}.weight"
        modules = [name.removesuffix(end) for name in tensors if name.endswith(end)]
        keys = {m: [f"{m}.lora_{factor}.{adapter}.weight" for factor in "AB"] for m in modules}
        pairs = {m: LoRAPair(*(tensors[key] for key in keys[m])) for m in modules}
        return LoRASet(pairs, rank=RANK, scale=1.0, name=adapter)

    metadata = {"timestep": "1", "rule": "residual"}
    return OneStepWeights("toy", (lora("coarse"), lora("fine")), metadata=metadata, source=str(file.path))


TOY = Format("toy", "weights of a toy method", recognise, read)

# --- what works by its line in the table alone ---


@pytest.fixture
def toy(mini: MiniModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Tensor]]:
    """A file of toy weights for the miniature, and its tensors; "coarse" adapts attention, "fine" convolutions too."""
    draw = torch.Generator().manual_seed(3)
    tensors = {}
    for module, (out, *inner) in layer_shapes(load_base(mini.base, "fp32", "cpu").unet.module).items():
        for adapter in ("coarse", "fine"):
            if module.endswith("to_q") or (adapter == "fine" and module.endswith("conv1")):
                shapes = {"A": (RANK, *inner), "B": (out, RANK, *[1] * (len(inner) - 1))}
                for factor, shape in shapes.items():
                    name = f"{module}.lora_{factor}.{adapter}.weight"
                    tensors[name] = 0.1 * torch.randn(shape, generator=draw)
    save_file(tensors, tmp_path / "toy.safetensors")
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, TOY))
    return tmp_path / "toy.safetensors", tensors


def test_it_is_identified_described_and_read(toy: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = toy
    found = identify(path)
    assert (found.kind, found.what, found.is_weights) == ("toy", "weights of a toy method", True)
    facts = describe(path)
    assert facts["tensors"] == len(tensors)
    assert facts["weights"]["rank_unet_fine"] == RANK and facts["weights"]["scale_unet_fine"] == 1
    assert (facts["weights"]["timestep"], facts["weights"]["rule"]) == (1, "residual")
    weights = read_weights(path)
    assert [lora.name for lora in weights.unet_sets] == ["coarse", "fine"]
    assert weights.vae_lora == weights.conv_in == {}
    assert (weights.timestep, weights.prediction_type, weights.rule) == (1, "epsilon", "residual")


def test_it_runs_by_its_own_timestep_scale_and_rule(
    mini: MiniModel, toy: tuple[Path, dict[str, Tensor]]
) -> None:
    path, tensors = toy
    generator = OneStepGenerator.load(mini.base, path, dtype="fp32", device="cpu")
    base = load_base(mini.base, "fp32", "cpu")
    changed = dict(base.unet.module.named_parameters())
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        for name in tensors:
            if ".lora_A." in name:
                weight = changed[f"{name.partition('.lora_A.')[0]}.weight"]
                a, b = tensors[name], tensors[name.replace(".lora_A.", ".lora_B.")]
                weight += (b.flatten(1) @ a.flatten(1)).view_as(weight)
        embeds = generator.encode_prompt(["a cat"])
        restored = generator.denoise(latents, embeds)
        expected = latents - base.unet(latents, torch.tensor([1]), embeds)
        torch.testing.assert_close(restored, expected, rtol=1e-4, atol=1e-4)
        generator.set_strength(unet=0.0)
        plain = load_base(mini.base, "fp32", "cpu").unet(latents, torch.tensor([1]), embeds)
        torch.testing.assert_close(generator.denoise(latents, embeds), latents - plain, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_said_of_it_too(mini: MiniModel, toy: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = toy
    with pytest.raises(CheckpointError, match=r"does not fit this base.*unexpected \(unet "):
        OneStepGenerator.load("tiny", path, dtype="fp32", device="cpu")
    with pytest.raises(BaseModelError, match=r"is weights of a toy method.*pass it as the weights"):
        OneStepGenerator.load(path)
    with pytest.raises(CheckpointError, match="method toy cannot be written"):
        write_weights(path.with_name("again.safetensors"), read_weights(path))
    save_file({name: tensor[:2] for name, tensor in tensors.items()}, path)
    with pytest.raises(CheckpointError, match="rank 3, but its tensors have rank 2"):
        read_weights(path)
