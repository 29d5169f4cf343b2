"""The fidelity slider: its ends, its middle, and that it sets what it says."""

import pytest
import torch

from osediff_core import OneStepGenerator
from osediff_core.errors import OptionError
from osediff_core.fidelity import strengths


@pytest.fixture
def image():
    torch.manual_seed(3)
    return torch.rand(1, 3, 64, 64) * 2 - 1


@pytest.fixture
def generator(mini):
    return OneStepGenerator.load(mini.base, mini.weights, dtype="fp32", device="cpu")


def test_the_path():
    assert strengths(0) == (1, 1, 1)
    assert strengths(1) == (1, 0, 0)
    assert strengths(-1) == (1.25, 1, 1)
    middle = [strengths(f / 8) for f in range(-8, 9)]
    for part in range(3):  # no part turns back on the way
        values = [point[part] for point in middle]
        assert values == sorted(values, reverse=True)
    for outside in (-1.01, 1.5, float("nan")):
        with pytest.raises(OptionError, match="not between -1"):
            strengths(outside)


def test_at_the_end_nothing_but_the_input_is_left(generator, image):
    generator.set_strength(vae=0.0)
    expected = generator.decode(generator.encode(image))
    generator.set_fidelity(1.0)
    assert torch.allclose(generator.restore(image, "a cat"), expected, atol=1e-5)


def test_the_step_is_taken_in_part(generator, image):
    latents, prompt_embeds = generator.encode(image), generator.encode_prompt([""])
    whole = generator.denoise(latents, prompt_embeds)
    generator.set_strength(step=0.25)
    part = generator.denoise(latents, prompt_embeds)
    assert torch.allclose(part, latents + 0.25 * (whole - latents), atol=1e-5)
    generator.set_fidelity(0.0)
    assert torch.equal(generator.denoise(latents, prompt_embeds), whole)


def test_loading_with_it_is_setting_it(mini, generator, image):
    generator.set_fidelity(0.5)
    loaded = OneStepGenerator.load(
        mini.base, mini.weights, dtype="fp32", device="cpu", fidelity=0.5, keep_base=False
    )
    assert torch.allclose(loaded.restore(image), generator.restore(image), atol=1e-5)
    weaker = OneStepGenerator.load(
        mini.base, mini.weights, dtype="fp32", device="cpu", strength=(0.8, 0.4), fidelity=0.5
    )
    assert (weaker.adapters["unet"].strength, weaker.adapters["vae"].strength, weaker.step) == (
        0.8,
        0.4 * 0.75,
        0.5,
    )
