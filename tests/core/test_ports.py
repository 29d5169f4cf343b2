"""The ports tell the truth: what they promise is all that the generator, the pipeline and the command use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from osediff_core import OneStepGenerator, Picture, RestoreOptions, restore_picture
from osediff_core.ports import LatentCodec, LatentScale, NoisePredictor, PlacedPredictor, PromptEncoder
from osediff_core.tiles.vae import VAETiling

_BESIDES = set(dir(PlacedPredictor)) - set(dir(NoisePredictor))  # of a protocol that few ports have


class Promised:
    """A port that has nothing but what its protocol names."""

    def __init__(self, port: object, protocol: type) -> None:
        self._port, self._names = port, {name for name in dir(protocol) if not name.startswith("_")}

    def __getattr__(self, name: str) -> Any:
        if name in _BESIDES:  # whether it is there may be asked
            raise AttributeError(name)
        assert name in self._names, f"the port does not promise {name}"
        return getattr(self._port, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._port(*args, **kwargs)


def test_a_generator_needs_no_more_than_its_ports_promise(mini_generator: OneStepGenerator) -> None:
    real = mini_generator
    bare = OneStepGenerator(
        Promised(real.vae, LatentCodec),
        Promised(real.unet, NoisePredictor),
        Promised(real.text, PromptEncoder),
        real.schedule,
    )
    picture = Picture(np.random.default_rng(0).random((20, 24, 3), dtype=np.float32))
    for options in (
        RestoreOptions(scale=4, prompt="a wall"),
        RestoreOptions(scale=4, tile=8, overlap=4, vae=VAETiling(32)),
    ):
        expected = restore_picture(real, picture, options)
        assert np.array_equal(restore_picture(bare, picture, options).rgb, expected.rgb)
    assert bare.text.fits("a wall") and not bare.text.fits("a wall " * 80)


def test_every_adapter_is_what_its_port_asks_for(mini_generator: OneStepGenerator) -> None:
    assert isinstance(mini_generator.vae, LatentCodec)
    assert isinstance(mini_generator.unet, NoisePredictor)
    assert isinstance(mini_generator.text, PromptEncoder)


def test_a_predictor_without_a_prompt_says_so(mini_generator: OneStepGenerator) -> None:
    with pytest.raises(Exception, match="needs the embeddings of a prompt"):
        mini_generator.denoise(torch.zeros(1, 4, 8, 8), None)


def test_latents_are_scaled_and_shifted_and_back() -> None:
    """As Stable Diffusion 3 does: z = (E(x) - shift) scale."""
    scale, mean = LatentScale(1.5305, 0.0609), torch.randn(2, 4, 3, 5)
    logvar = torch.randn(2, 4, 3, 5)
    posterior = scale.posterior(torch.cat([mean, logvar], dim=1), 4)
    torch.testing.assert_close(posterior[:, :4], (mean - 0.0609) * 1.5305)
    torch.testing.assert_close(posterior[:, 4:], torch.exp(logvar / 2) * 1.5305)
    torch.testing.assert_close(scale.undo(posterior[:, :4]), mean)
    without = LatentScale().posterior(mean, 4)
    assert torch.equal(without[:, :4], mean) and not without[:, 4:].any()
