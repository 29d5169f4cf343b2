"""One base in three roles gives what three copies give, in a third of the memory."""

import copy

import pytest
import torch
from mini_models.networks import stir

from training.config import LossConfig, ModelConfig
from training.draws import Draws
from training.networks import build_networks
from training.roles import GENERATOR, REGULARISER, TEACHER
from training.steps import GeneratorStep, RegulariserStep

CPU = torch.device("cpu")


def built(base, **options):
    networks = build_networks(ModelConfig(base=str(base), **options), CPU)
    stir(networks.generator_parameters, 1)
    stir(networks.regulariser_parameters, 2)
    with torch.no_grad():
        networks.generator_parameters["unet/conv_in.base_layer.weight"].add_(0.05)
    return networks


def inputs(count=2):
    torch.manual_seed(3)
    latents, embeds = torch.randn(count, 4, 8, 8), torch.randn(count, 77, 64)
    return latents, torch.tensor([500, 20][:count]), embeds


def batch():
    torch.manual_seed(4)
    lq, hq = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    draws = Draws(torch.randn(2, 4, 8, 8), torch.tensor([400, 700]), torch.randn(2, 4, 8, 8))
    return lq, hq, torch.randn(2, 77, 64), torch.randn(2, 77, 64), draws


def plain_unets(base, networks):
    """Teacher, generator, regulariser as three separate stock UNets with what each learned merged by hand."""
    from diffusers import UNet2DConditionModel

    copies = {}
    trained = dict(networks.base.unet.module.named_parameters())
    for role, prefix in ((TEACHER, None), (GENERATOR, "default_"), (REGULARISER, "regulariser_")):
        unet = UNet2DConditionModel.from_pretrained(base / "unet")
        weights = dict(unet.named_parameters())
        with torch.no_grad():
            if role == GENERATOR:
                for name in ("weight", "bias"):
                    weights[f"conv_in.{name}"].copy_(trained[f"conv_in.base_layer.{name}"])
            for name, a in trained.items():
                if prefix and f".lora_A.{prefix}" in name:
                    b = trained[name.replace(".lora_A.", ".lora_B.")]
                    target = weights[name.split(".lora_A.")[0] + ".weight"]
                    target.add_((b.flatten(1) @ a.flatten(1)).view_as(target) * 2)  # 8 / rank 4
        copies[role] = unet
    return copies


def test_every_role_is_what_its_own_copy_would_be(mini_base):
    networks = built(mini_base)
    copies = plain_unets(mini_base, networks)
    latents, timesteps, embeds = inputs()
    found = {}
    with torch.no_grad():
        for role, unet in copies.items():
            found[role] = networks.predict(role, latents, timesteps, embeds)
            expected = unet(latents, timesteps, encoder_hidden_states=embeds).sample
            assert torch.allclose(found[role], expected, atol=2e-5), role
    assert (
        torch.dist(found[TEACHER], found[GENERATOR]) > 0.01
        and torch.dist(found[TEACHER], found[REGULARISER]) > 0.01
    )
    assert networks.unet_roles.current == GENERATOR


def test_one_base_is_held_once(mini_base):
    networks = built(mini_base)
    unet = networks.base.unet.module
    tensors = {t.untyped_storage().data_ptr(): t for t in (*unet.parameters(), *unet.buffers())}
    held = sum(t.untyped_storage().nbytes() for t in tensors.values())
    trained = sum(
        p.nbytes
        for p in {**networks.generator_parameters, **networks.regulariser_parameters}.values()
        if p.untyped_storage().data_ptr() in tensors
    )
    from diffusers import UNet2DConditionModel

    plain = sum(p.nbytes for p in UNet2DConditionModel.from_pretrained(mini_base / "unet").parameters())
    assert held == plain + trained


@pytest.mark.parametrize("kind", ["vsd", "vsd-pixel", "csd", "sds", "gan", "none"])
def test_a_recomputed_block_sees_the_role_of_its_forward(kind, mini_base):
    gradients = {}
    for checkpointing in (False, True):
        networks = built(mini_base, regulariser=kind, gradient_checkpointing=checkpointing)
        lq, hq, embeds, negative, draws = batch()
        loss = LossConfig(perceptual=0.0)
        out = GeneratorStep(networks, loss, kind, None)(lq, hq, embeds, negative, draws)
        with networks.unet_roles.role(REGULARISER if networks.regulariser_parameters else TEACHER):
            out["loss"].backward()  # whatever role is played now
        assert not any(p.grad is not None for p in networks.regulariser_parameters.values())
        assert all(p.grad is not None for p in networks.generator_parameters.values())
        if networks.regulariser_parameters:
            step = RegulariserStep(networks, loss, kind)
            step(out["latents"], out["image"], hq, embeds, draws).backward()
            assert all(p.grad is not None for p in networks.regulariser_parameters.values())
        both = {**networks.generator_parameters, **networks.regulariser_parameters}
        gradients[checkpointing] = {name: p.grad for name, p in both.items()}
    largest = max(float(g.abs().max()) for g in gradients[False].values())
    for name, expected in gradients[False].items():
        assert torch.allclose(gradients[True][name], expected, atol=1e-5 * largest), name


def test_the_regulariser_leaves_the_generator_alone(mini_base):
    networks = built(mini_base)
    before = copy.deepcopy(networks.generator_parameters)
    lq, hq, embeds, _, draws = batch()
    loss = RegulariserStep(networks, LossConfig(), "vsd")(torch.randn(2, 4, 8, 8), lq, hq, embeds, draws)
    loss.backward()
    for name, parameter in networks.generator_parameters.items():
        assert parameter.grad is None and torch.equal(parameter, before[name])


@pytest.mark.parametrize(("halves", "in_encoder", "in_decoder"), [
    ("none", False, False), ("encoder", True, False), ("decoder", False, True), ("both", True, True)
])  # fmt: skip
def test_the_chosen_halves_of_the_vae_are_trained(halves, in_encoder, in_decoder, mini_base):
    networks = build_networks(ModelConfig(base=str(mini_base), tune_vae=halves), CPU)
    names = [name for name in networks.generator_parameters if name.startswith("vae/")]
    assert any(name.startswith("vae/encoder.") for name in names) == in_encoder
    assert any(name.startswith("vae/decoder.") for name in names) == in_decoder


@pytest.mark.parametrize("halves", ["none", "encoder", "both"])
def test_what_was_trained_is_what_the_core_loads(halves, mini_base, tmp_path):
    from osediff_core import OneStepGenerator
    from osediff_core.weights.checkpoint import write_weights
    from training.steps import restore

    networks = built(mini_base, tune_vae=halves)
    lq = batch()[0]
    expected = restore(networks, lq, networks.generator.encode_prompt(["a cat"]), "fp32")
    for suffix in (".safetensors", ".pkl"):
        path = tmp_path / f"weights{suffix}"
        write_weights(path, networks.weights({}))
        loaded = OneStepGenerator.load(mini_base, path, dtype="fp32", device="cpu")
        assert torch.allclose(loaded.restore(lq, "a cat"), expected, atol=1e-4), suffix


@pytest.mark.parametrize("base_dtype", ["fp32", "bf16"])
def test_half_precision_trains_fp32_parameters(base_dtype, mini_base):
    networks = built(mini_base, base_dtype=base_dtype)
    lq, hq, embeds, negative, draws = batch()
    out = GeneratorStep(networks, LossConfig(perceptual=0.0), "vsd", None, "bf16")(
        lq, hq, embeds, negative, draws
    )
    out["loss"].backward()
    exact = built(mini_base)
    reference = GeneratorStep(exact, LossConfig(perceptual=0.0), "vsd", None)(lq, hq, embeds, negative, draws)
    assert abs(float(out["l2"].detach() / reference["l2"].detach()) - 1) < 0.05
    for parameter in networks.generator_parameters.values():
        assert (
            parameter.dtype == parameter.grad.dtype == torch.float32 and torch.isfinite(parameter.grad).all()
        )


def test_a_v_prediction_base_is_refused(tmp_path):
    from mini_models.networks import write_mini_base

    from osediff_core.errors import BaseModelError

    base = write_mini_base(tmp_path / "v", "v_prediction")
    with pytest.raises(BaseModelError, match="v-prediction"):
        build_networks(ModelConfig(base=str(base)), CPU)


@pytest.mark.parametrize("start", ["gaussian", "fan_in"])
def test_the_generators_start_does_not_depend_on_the_regulariser(mini_base, start):
    def started(regulariser):
        options = {"lora_init": start, "regulariser": regulariser, "tune_vae": "both", "rank_unet": 8}
        return build_networks(ModelConfig(base=str(mini_base), **options), CPU, seed=7).generator_parameters

    expected = started("none")
    for regulariser in ("vsd", "gan"):
        found = started(regulariser)
        assert found.keys() == expected.keys()
        assert all(found[name].equal(expected[name]) for name in found)
