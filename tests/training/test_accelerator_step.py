"""One training step on a fake accelerator: both losses and their gradients, nothing that waits for a value."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_device import fake_device
from torch import Tensor, nn

from training import networks
from training.config import LossConfig, ModelConfig
from training.draws import generator_draws, regulariser_draws
from training.networks import build_networks
from training.steps import GeneratorStep, RegulariserStep


def on_device(made: networks.Networks, device: torch.device) -> networks.Networks:
    """The networks with all tensors on a fake device."""
    base, replaced = made.base, {}
    roots = [base.unet.module, base.vae.module, base.text.module, made.discriminator]
    for module in (child for root in roots if root is not None for child in root.modules()):
        for name, old in module._parameters.items():
            if old is not None and old not in replaced:
                new = torch.empty(old.shape, dtype=old.dtype, device=device)
                replaced[old] = nn.Parameter(new, requires_grad=old.requires_grad)
            module._parameters[name] = replaced.get(old)
        for name, old in module._buffers.items():
            module._buffers[name] = None if old is None else old.to(device)
    ours, its = (
        {name: replaced[parameter] for name, parameter in trained.items()}
        for trained in (made.generator_parameters, made.regulariser_parameters)
    )
    return replace(made, generator_parameters=ours, regulariser_parameters=its)


@pytest.mark.parametrize(
    ("kind", "precision", "regulariser"),
    [("cuda", "fp16", "vsd"), ("cuda", "bf16", "csd"), ("cpu", "bf16", "vsd"), ("cpu", "bf16", "gan")],
)
def test_a_step_stays_on_its_device_and_waits_for_nothing(
    kind: str, precision: str, regulariser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backward passes on the CPU only: autograd asks an accelerator's driver."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    device = torch.device(kind)

    def learn(loss: Tensor) -> None:
        assert (loss.device.type, loss.dtype) == (kind, torch.float32)
        if kind == "cpu":
            loss.backward()

    made = build_networks(ModelConfig(base="tiny", regulariser=regulariser), torch.device("cpu"))
    with fake_device(kind):
        made = on_device(made, device)
        loss = LossConfig(perceptual=0)
        generator_step = GeneratorStep(made, loss, regulariser, None, precision)
        regulariser_step = RegulariserStep(made, loss, regulariser, precision)
        lq, hq = torch.empty(2, 3, 64, 64, device=device), torch.empty(2, 3, 64, 64, device=device)
        embeds = made.generator.encode_prompt(["a", "b"])
        shape = (made.base.vae.latent_channels, 16, 16)
        out = generator_step(
            lq, hq, embeds, embeds, generator_draws(0, [0, 1], shape, (20, 980), True).to(device)
        )
        learn(out["loss"])
        if regulariser == "csd":
            return
        draws = regulariser_draws(0, [0, 1], shape, 1000, 0).to(device)
        learn(regulariser_step(out["latents"], out["image"], hq, embeds, draws))
        if kind == "cpu":
            trained = (*made.generator_parameters.values(), *made.regulariser_parameters.values())
            assert all(parameter.grad is not None for parameter in trained)
            assert {parameter.grad.dtype for parameter in trained} == {torch.float32}
