"""The network against RAM's equations written out step by step, and where its tensors come from."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mini_models.taggers import SMALL, lora_tensors, official_tensors
from ram_equations import Reference

from osediff_core.dape import TaggerConfig, TaggerNetwork, TaggerWeights
from osediff_core.dape.layout import layout
from osediff_core.dape.lora import lora_modules, merged, pairs_of
from osediff_core.dape.official import official_shapes
from osediff_core.errors import BaseModelError, OptionError

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(5))


def test_logits_are_those_of_the_equations(pixels):
    tensors = official_tensors(dtype=torch.float64)
    network = TaggerWeights(SMALL, tensors).network()
    with torch.inference_mode():
        found = network(pixels.double())
    for image, logits in zip(pixels.double(), found, strict=True):
        expected = Reference(tensors, SMALL).logits(image)
        assert expected.std() > 0.3
        assert (logits - expected).abs().max() < 1e-6


def test_merged_lora_is_the_branch_beside_each_layer(pixels):
    tensors, lora = official_tensors(), lora_tensors()
    pairs = pairs_of(lora, lora_modules(SMALL))
    assert len(pairs) == len(lora) // 2 == 4 + 4
    for module, pair in pairs.items():
        weight = tensors[f"{module}.weight"]
        x = torch.randn(3, weight.shape[1])
        lone = {f"{module}.weight": weight, f"{module}.bias": torch.zeros(len(weight))}
        expected = Reference(lone, SMALL, {k: v for k, v in lora.items() if k.startswith(module)}).linear(
            module, x
        )
        assert (expected - x @ weight.T).abs().max() > 0.1
        assert (x @ merged(module, weight, pair).T - expected).abs().max() < 1e-5


def test_ram_has_366_tensors_and_dape_adapts_28_of_them():
    config = TaggerConfig()
    shapes = official_shapes(config)
    assert len(shapes) == 366
    assert sum(math.prod(shape) for shape in shapes.values()) == 212_117_045
    assert shapes["visual_encoder.layers.3.blocks.1.attn.relative_position_bias_table"] == (529, 48)
    assert shapes["tagging_head.encoder.layer.1.crossattention.self.key.weight"] == (768, 512)
    assert len(lora_modules(config)) == 28


def test_official_names_of_a_trained_network_are_its_tensors(pixels):
    network = TaggerNetwork(SMALL).eval()
    back = TaggerWeights.from_network(network).network()
    with torch.inference_mode():
        assert torch.equal(back(pixels), network(pixels))
    assert not any(parameter.requires_grad for parameter in back.parameters())
    assert not any(parameter.is_meta for parameter in back.parameters())


def test_gradients_reach_every_parameter(pixels):
    network = TaggerNetwork(SMALL)
    network(pixels).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters() if p.ndim > 1)


@pytest.mark.slow
def test_neither_diffusers_nor_peft_is_imported():
    """ComfyUI has neither."""
    probe = (
        "import sys, torch; from osediff_core.dape import Tagger, TaggerConfig, TaggerNetwork; "
        "network = TaggerNetwork(TaggerConfig(image_size=48, swin_depths=(1,), swin_heads=(6,))).eval(); "
        "Tagger(network).tag(torch.zeros(1, 3, 5, 5)); "
        "print([name for name in ('diffusers', 'peft', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_swin_of_other_layers_is_reported():
    network = TaggerNetwork(SMALL)
    network.swin.layernorm = torch.nn.Identity()
    with pytest.raises(BaseModelError, match="builds Swin with other layers"):
        layout(network)


def test_configuration_travels_as_json():
    config = TaggerConfig(tags=(3, 17), thresholds=(0.5, 0.25))
    assert TaggerConfig.from_json(config.to_json()) == config
    assert TaggerConfig.from_json(TaggerConfig().to_json()) == TaggerConfig()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image_size": 50}, "not a multiple of its patch_size"),
        ({"head_heads": 5}, "cannot be divided among 5"),
        ({"swin_heads": (2,)}, "one number for each stage"),
        ({"swin_depths": (0, 1), "swin_heads": (2, 4)}, "whole numbers of at least 1"),
        ({"window_size": 0}, "window_size is 0"),
        ({"image_size": 384.0}, "image_size is 384.0"),
        ({"dropout": 1.0}, "below 1"),
        ({"tags": (4, 4)}, "increasing indices"),
        ({"tags": ()}, "at least one"),
        ({"tags": (4585,)}, "from 0 to 4584"),
        ({"tags": (1, 2), "thresholds": (0.5,)}, "1 thresholds for 2 tags"),
    ],
)
def test_impossible_configurations_are_refused(wrong, said):
    with pytest.raises(OptionError, match=said):
        TaggerConfig(**wrong)


@pytest.mark.parametrize("text", ["", "[]", '{"size": 1}', "{"])
def test_a_configuration_that_is_none_is_refused(text):
    with pytest.raises(OptionError, match="cannot be read"):
        TaggerConfig.from_json(text)
