from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from mini_models.checkpoints import official_content, official_unet_lists
from mini_models.networks import empty_networks, tiny_unet, tiny_vae
from peft import LoraConfig

from osediff_core.errors import CheckpointError, OptionError
from osediff_core.weights.checkpoint import read_weights, write_weights
from osediff_core.weights.fit import check_fits, layer_shapes
from osediff_core.weights.formats.osediff import lora_scale
from osediff_core.weights.lora_targets import unet_targets, vae_targets
from osediff_core.weights.merge import MergedAdapter, merge_weights
from osediff_core.weights.one_step_weights import LoRAPair, LoRASet, OneStepWeights
from training.adapters import attach_peft, copy_into_peft, weights_from_peft


def names(model: torch.nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def load(tmp_path: Path, content: dict) -> object:
    torch.save(content, tmp_path / "w.pkl")
    return read_weights(tmp_path / "w.pkl")


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return tiny_unet()


@pytest.fixture
def vae() -> AutoencoderKL:
    return tiny_vae()


@pytest.fixture
def content(unet, vae) -> dict:
    return official_content(unet, vae)


@torch.no_grad()
def run_unet(unet: torch.nn.Module) -> torch.Tensor:
    g = torch.Generator().manual_seed(5)
    latents, text = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 7, 32, generator=g)
    return unet(latents, torch.tensor([999, 999]), text).sample


@torch.no_grad()
def run_vae(vae: torch.nn.Module) -> torch.Tensor:
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(6))
    return vae.encode(image).latent_dist.parameters


# --- where adapters go ---


def test_targets_at_sd21_size():
    unet, vae, _ = empty_networks()
    groups = unet_targets(names(unet))
    assert {group: len(modules) for group, modules in groups.items()} == {
        "encoder": 94,
        "decoder": 148,
        "others": 16,
    }
    assert {g: sorted(m) for g, m in groups.items()} == {
        g: sorted(m) for g, m in official_unet_lists(unet).items()
    }
    listed = vae_targets(names(vae))
    assert len(listed) == 65
    assert len(set(listed)) == 32
    assert listed.count("quant_conv") == 10
    assert not any("decoder" in name or "post_quant_conv" in name for name in listed)


def test_targets_equal_the_reference_rules(import_reference):
    reference = import_reference("make_weights")
    unet, vae, _ = empty_networks()
    for model in (unet, tiny_unet()):
        assert tuple(unet_targets(names(model)).values()) == reference.unet_lora_targets(names(model))
    for model in (vae, tiny_vae()):
        assert vae_targets(names(model)) == reference.vae_lora_targets(names(model))


def test_targets_of_other_sizes(unet, vae):
    groups = unet_targets(names(unet))
    assert {g: sorted(m) for g, m in groups.items()} == {
        g: sorted(m) for g, m in official_unet_lists(unet).items()
    }
    listed = set(vae_targets(names(vae)))
    assert {n for n in listed if "mid_block.attentions" in n} == {
        f"encoder.mid_block.attentions.0.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")
    }


def test_scale():
    assert [lora_scale(rank) for rank in (2, 4, 8, 16)] == [4, 2, 1, 0.5]


# --- against peft ---


@pytest.mark.parametrize("rank", [1, 4, 8])
@pytest.mark.parametrize("linear", [True, False], ids=["linear-proj", "conv1x1-proj"])
def test_merged_equals_peft(tmp_path, vae, rank, linear):
    unet = tiny_unet(use_linear_projection=linear)
    content = official_content(unet, vae, rank)
    weights = load(tmp_path, content)

    peft_unet, peft_vae = copy.deepcopy(unet), copy.deepcopy(vae)
    for group in ("encoder", "decoder", "others"):  # as the official code, not through attach_peft
        config = LoraConfig(r=rank, target_modules=content[f"unet_lora_{group}_modules"])
        peft_unet.add_adapter(config, adapter_name=f"default_{group}")
    peft_unet.set_adapter(["default_encoder", "default_decoder", "default_others"])
    peft_vae.add_adapter(
        LoraConfig(r=rank, target_modules=content["vae_lora_encoder_modules"]), "default_encoder"
    )
    assert not peft_unet.load_state_dict(content["state_dict_unet"], strict=False).unexpected_keys
    assert not peft_vae.load_state_dict(content["state_dict_vae"], strict=False).unexpected_keys

    before = run_unet(unet), run_vae(vae)
    merge_weights(weights, unet, vae)
    for ours, theirs, base in (
        (run_unet(unet), run_unet(peft_unet), before[0]),
        (run_vae(vae), run_vae(peft_vae), before[1]),
    ):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max().clamp(min=1)
        assert (ours - base).abs().max() > 1e-2  # the adapters matter

    merged = dict(unet.named_parameters())
    for name, module in peft_unet.named_modules():  # peft's own merge, layer by layer
        if hasattr(module, "merge") and hasattr(module, "base_layer"):
            module.merge()
            torch.testing.assert_close(
                merged[f"{name}.weight"], module.base_layer.weight, rtol=1e-5, atol=1e-6
            )
    assert torch.equal(merged["conv_in.bias"], content["state_dict_unet"]["conv_in.base_layer.bias"])


def test_attach_peft_is_the_official_setup(unet, vae):
    groups, listed = attach_peft(unet, vae, 4, 2)
    assert groups == unet_targets(names(tiny_unet()))
    assert listed == vae_targets(names(tiny_vae()))
    assert sorted(unet.active_adapters()) == ["default_decoder", "default_encoder", "default_others"]
    adapted = {n: m for n, m in unet.named_modules() if hasattr(m, "lora_A")}
    assert sorted(adapted) == sorted(name for modules in groups.values() for name in modules)
    assert sorted(n for n, m in vae.named_modules() if hasattr(m, "lora_A")) == sorted(set(listed))
    assert all(list(m.scaling.values()) == [2.0] for m in adapted.values())
    trainable = {n for n, p in unet.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in unet.named_parameters() if "lora" in n}
    assert torch.equal(run_unet(unet), run_unet(tiny_unet()))  # B = 0
    run = unet(torch.randn(1, 4, 8, 8), 999, torch.randn(1, 7, 32)).sample.sum()
    run.backward()
    assert all(p.grad is not None for n, p in unet.named_parameters() if "lora_B" in n)


def test_attach_peft_at_sd21_size():
    unet, vae, _ = empty_networks()
    with torch.device("meta"):
        attach_peft(unet, vae)
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (unet, vae)]
    assert counts == [4_055_712, 369_356]
    assert sum(hasattr(module, "lora_A") for module in unet.modules()) == 258


def test_gaussian_init_has_deviation_one_over_rank(unet, vae):
    attach_peft(unet, vae, 8, 8)
    values = torch.cat([p.flatten() for n, p in unet.named_parameters() if "lora_A" in n])
    assert values.std().item() == pytest.approx(1 / 8, rel=0.05)


def test_weights_from_peft_round_trip(tmp_path, unet, vae, content):
    weights = load(tmp_path, content)
    attach_peft(unet, vae)
    copy_into_peft(weights, unet, vae)
    with torch.no_grad():  # a regulariser's adapter on the same UNet is not the generator's
        unet.add_adapter(LoraConfig(r=2, target_modules=["mid_block.resnets.0.conv1"]), adapter_name="fake")
    collected = weights_from_peft(unet, vae, {"run": "7"})
    assert list(collected.unet_lora) == list(weights.unet_lora)
    assert collected.unet_groups == unet_targets(names(tiny_unet()))
    assert collected.vae_modules == vae_targets(names(tiny_vae()))
    assert (collected.rank_unet, collected.rank_vae, collected.metadata["run"]) == (4, 4, "7")
    write_weights(tmp_path / "again.pkl", collected)
    again = torch.load(tmp_path / "again.pkl", weights_only=True)
    for part in ("state_dict_unet", "state_dict_vae"):
        assert list(again[part]) == list(content[part])
        assert all(torch.equal(again[part][name], content[part][name]) for name in again[part])


def test_weights_from_peft_takes_the_trainers_own_conv_in(unet, vae):
    attach_peft(unet, vae, vae_modules=[])
    own = {"weight": torch.ones_like(unet.conv_in.weight), "bias": torch.ones_like(unet.conv_in.bias)}
    collected = weights_from_peft(unet, vae, conv_in=own)
    assert torch.equal(collected.conv_in["weight"], own["weight"])
    assert collected.vae_lora == {}
    assert collected.vae_modules == []


def test_an_untouched_vae_is_written_so_that_the_official_code_reads_it(tmp_path, unet, vae):
    attach_peft(unet, vae, vae_modules=[])
    write_weights(tmp_path / "w.pkl", weights_from_peft(unet, vae))
    content = torch.load(tmp_path / "w.pkl", weights_only=True)
    fresh, before = tiny_vae(), run_vae(tiny_vae())
    # peft refuses an empty list
    config = LoraConfig(
        r=content["rank_vae"],
        init_lora_weights="gaussian",
        target_modules=content["vae_lora_encoder_modules"],
    )
    fresh.add_adapter(config, adapter_name="default_encoder")
    own = {name: p for name, p in fresh.named_parameters() if "lora" in name}
    assert own.keys() == content["state_dict_vae"].keys()
    assert all(p.shape == content["state_dict_vae"][name].shape for name, p in own.items())
    fresh.load_state_dict(content["state_dict_vae"], strict=False)
    assert torch.equal(run_vae(fresh), before)


def test_a_file_that_the_official_code_would_refuse_is_not_written(tmp_path, content):
    weights = load(tmp_path, content)
    for module in weights.unet_groups["others"]:
        del weights.unet_lora[module]
    weights.unet_groups["others"] = []
    with pytest.raises(CheckpointError, match="group others"):
        write_weights(tmp_path / "w.pkl", weights)


def test_weights_from_peft_without_adapters(unet, vae):
    with pytest.raises(CheckpointError, match="attach_peft"):
        weights_from_peft(unet, vae)


def test_copy_into_peft_refuses_another_rank(tmp_path, unet, vae, content):
    weights = load(tmp_path, content)
    attach_peft(unet, vae, 2, 4)
    before = {name: p.clone() for name, p in unet.named_parameters()}
    with pytest.raises(CheckpointError, match=r"conv_out\.lora_A"):
        copy_into_peft(weights, unet, vae)
    assert all(torch.equal(p, before[name]) for name, p in unet.named_parameters())


# --- strength ---


def test_strength_is_exact_at_both_ends_and_linear(tmp_path, unet, vae, content):
    weights = load(tmp_path, content)
    base = {n: p.detach().clone() for n, p in unet.named_parameters()}
    adapter, _ = merge_weights(weights, unet, vae)
    full = {n: p.detach().clone() for n, p in unet.named_parameters()}
    untouched = set(base) - {f"{n}.weight" for n in weights.unet_lora} - {"conv_in.bias"}
    assert all(torch.equal(full[n], base[n]) for n in untouched)
    assert not any(torch.equal(full[n], base[n]) for n in set(base) - untouched)
    for strength in (0.3, 1.7, -0.5, 100.0, 0.0):
        adapter.strength = strength
        for n, p in unet.named_parameters():
            torch.testing.assert_close(
                p.detach(), base[n] + strength * (full[n] - base[n]), rtol=1e-5, atol=1e-5
            )
    assert all(torch.equal(p, base[n]) for n, p in unet.named_parameters())
    adapter.strength = 1
    assert all(torch.equal(p, full[n]) for n, p in unet.named_parameters())
    assert torch.equal(unet.conv_in.bias, content["state_dict_unet"]["conv_in.base_layer.bias"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_changes_in_half_precision_leave_no_trace(tmp_path, unet, vae, content, dtype):
    weights = load(tmp_path, content)
    unet.to(dtype)
    base = {n: p.detach().clone() for n, p in unet.named_parameters()}
    adapter, _ = merge_weights(weights, unet, vae, strength=(0.5, 1.0))
    half = {n: p.detach().clone() for n, p in unet.named_parameters()}
    for i in range(20):
        adapter.strength = 0.37 * i - 2
    adapter.strength = 0.5
    assert all(torch.equal(p, half[n]) and p.dtype == dtype for n, p in unet.named_parameters())
    adapter.strength = 0.0
    assert all(torch.equal(p, base[n]) for n, p in unet.named_parameters())
    name = "mid_block.resnets.0.conv1"  # merged in fp32 and rounded once
    adapter.strength = 1.0
    pair, w0 = weights.unet_lora[name], base[f"{name}.weight"].float()
    exact = w0 + 2 * torch.einsum("or,rikl->oikl", pair.B[:, :, 0, 0], pair.A)
    assert torch.equal(dict(unet.named_parameters())[f"{name}.weight"], exact.to(dtype))


def test_strength_follows_the_module_to_another_dtype(tmp_path, unet, vae, content):
    adapter, _ = merge_weights(load(tmp_path, content), unet, vae)
    unet.half()
    adapter.strength = 0.25
    assert unet.conv_out.weight.dtype == torch.float16


def test_the_first_merge_may_round_to_another_dtype(tmp_path, unet, vae, content):
    weights = load(tmp_path, content)
    exact = copy.deepcopy(unet)
    merge_weights(weights, exact, copy.deepcopy(vae))
    adapter, _ = merge_weights(weights, unet, vae, dtype=torch.float16)
    adapted = {f"{name}.weight" for name in weights.unet_lora} | {"conv_in.bias"}
    for (name, merged), expected in zip(unet.named_parameters(), exact.parameters(), strict=True):
        assert merged.dtype == (torch.float16 if name in adapted else torch.float32)
        assert torch.equal(merged, expected.to(merged.dtype))
    unet.to(torch.bfloat16)  # the module goes elsewhere; the exact base does not go with it
    adapter.strength = 0.0
    adapter.strength = 1.0
    assert all(
        torch.equal(p, e.bfloat16())
        for (n, p), e in zip(unet.named_parameters(), exact.parameters(), strict=True)
        if n in adapted
    )


def test_a_first_merge_that_fails_leaves_the_module_as_it_was(unet):
    base = {n: p.detach().clone() for n, p in unet.named_parameters()}
    linear = "mid_block.attentions.0.proj_in"
    good = {linear: LoRAPair(torch.ones(2, 64), torch.ones(64, 2))}
    no_data = {"conv_out": LoRAPair(torch.ones(2, 32, 3, 3, device="meta"), torch.ones(4, 2, 1, 1))}
    with pytest.raises((RuntimeError, NotImplementedError)):
        MergedAdapter(unet, [LoRASet(good | no_data, rank=2, scale=2.0)], dtype=torch.float16)
    assert all(p.dtype == base[n].dtype and torch.equal(p, base[n]) for n, p in unet.named_parameters())


def test_strength_under_inference_mode_leaves_ordinary_tensors(tmp_path, unet, vae, content):
    adapter, _ = merge_weights(load(tmp_path, content), unet, vae)
    with torch.inference_mode():
        adapter.strength = 0.5
    assert not unet.conv_out.weight.is_inference()
    assert not unet.conv_out.weight.data.is_inference()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_strength_on_a_gpu(tmp_path, unet, vae, content):
    adapter, _ = merge_weights(load(tmp_path, content), unet, vae, strength=(0.5, 1.0))
    on_cpu = unet.conv_out.weight.detach().clone()
    unet.cuda()
    adapter.strength = 0.0
    adapter.strength = 0.5
    assert unet.conv_out.weight.is_cuda
    torch.testing.assert_close(unet.conv_out.weight.detach().cpu(), on_cpu)


def test_without_base_the_strength_is_fixed(tmp_path, unet, vae, content):
    weights = load(tmp_path, content)
    other_unet, other_vae = copy.deepcopy(unet), copy.deepcopy(vae)
    merge_weights(weights, other_unet, other_vae, strength=(0.5, 1.0))
    adapter, _ = merge_weights(weights, unet, vae, strength=(0.5, 1.0), keep_base=False)
    assert torch.equal(unet.conv_out.weight, other_unet.conv_out.weight)
    adapter.strength = 0.5  # no change, no error
    with pytest.raises(OptionError, match="keep_base"):
        adapter.strength = 1.0


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_strength_must_be_finite(tmp_path, unet, vae, content, strength):
    weights = load(tmp_path, content)
    before = unet.conv_out.weight.detach().clone()
    with pytest.raises(OptionError, match="finite"):
        merge_weights(weights, unet, vae, strength=(1.0, strength))
    assert torch.equal(unet.conv_out.weight, before)


def test_failure_in_the_middle_restores_the_base(unet, monkeypatch):
    wanted = {}
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and len(wanted) < 4:
            wanted[name] = LoRAPair(torch.ones(2, module.in_features), torch.ones(module.out_features, 2))
    base = {n: p.detach().clone() for n, p in unet.named_parameters()}
    adapter = MergedAdapter(unet, [LoRASet(wanted, rank=2)])
    original, calls = MergedAdapter._weight, []

    def failing(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(MergedAdapter, "_weight", failing)
    with pytest.raises(KeyboardInterrupt):
        adapter.strength = 0.5
    assert adapter.strength == 0
    assert all(torch.equal(p, base[n]) for n, p in unet.named_parameters())


def test_merging_refuses_before_changing(unet, vae):
    before = {n: p.detach().clone() for n, p in unet.named_parameters()}
    good = LoRAPair(torch.ones(2, 32, 3, 3), torch.ones(4, 2, 1, 1))
    lora = LoRASet({"conv_out": good, "nowhere": good, "conv_in": good}, rank=2, scale=2.0)
    weights = OneStepWeights("any", (lora,), conv_in={"weight": torch.ones(3), "bias": torch.ones(3)})
    with pytest.raises(CheckpointError) as caught:
        merge_weights(weights, unet, vae)
    assert all(name in str(caught.value) for name in ("nowhere", "conv_in.weight", "conv_in.bias"))
    assert all(torch.equal(p, before[n]) for n, p in unet.named_parameters())


# --- does it fit ---


def test_fitting_weights_pass_silently(tmp_path, unet, vae, content, caplog):
    with caplog.at_level(logging.WARNING):
        check_fits(load(tmp_path, content), layer_shapes(unet), layer_shapes(vae))
    assert not caplog.records


def test_report_is_complete_and_nothing_changes(tmp_path, unet, vae, content):
    state, state_vae = content["state_dict_unet"], content["state_dict_vae"]
    del state["conv_out.lora_A.default_decoder.weight"], state["conv_in.base_layer.bias"]
    del state_vae["quant_conv.lora_B.default_encoder.weight"]
    state["extra.lora_A.default_encoder.weight"] = torch.ones(4, 4)
    state_vae["decoder.conv_in.lora_A.default_encoder.weight"] = torch.ones(4, 4)
    state["mid_block.resnets.0.conv1.lora_B.default_others.weight"] = torch.ones(63, 4, 1, 1)
    state_vae["encoder.conv_in.lora_A.default_encoder.weight"] = torch.ones(4, 5, 3, 3)
    state["conv_in.base_layer.weight"] = torch.ones(32, 4, 1, 1)
    content["unet_lora_encoder_modules"].append("down_blocks.9.conv")
    state["down_blocks.9.conv.lora_A.default_encoder.weight"] = torch.ones(4, 4)
    state["down_blocks.9.conv.lora_B.default_encoder.weight"] = torch.ones(4, 4)
    weights = load(tmp_path, content)
    before = {n: p.detach().clone() for n, p in unet.named_parameters()}
    with pytest.raises(CheckpointError) as caught:
        merge_weights(weights, unet, vae)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "3 missing",
        "unet conv_in.base_layer.bias",
        "unet conv_out.lora_A.default_decoder.weight",
        "vae quant_conv.lora_B.default_encoder.weight",
        "unet extra.lora_A",
        "vae decoder.conv_in.lora_A",
        "unet down_blocks.9.conv.lora_A",
        "4 unexpected",
        "unet mid_block.resnets.0.conv1.lora_B",
        "vae encoder.conv_in.lora_A is (4, 5, 3, 3) and should be (4, 3, 3, 3)",
        "3 of another shape",
        "unet conv_in.weight is (32, 4, 1, 1) and should be (32, 4, 3, 3)",
        "w.pkl",
    ):
        assert part in message, part
    assert all(torch.equal(p, before[n]) for n, p in unet.named_parameters())


def test_weights_of_another_base(tmp_path, vae, content):
    other = tiny_unet(block_out_channels=(32, 96), cross_attention_dim=48)
    with pytest.raises(CheckpointError, match="does not fit this base"):
        check_fits(load(tmp_path, content), layer_shapes(other), layer_shapes(vae))


def test_partly_adapted_unet_is_allowed_with_a_warning(tmp_path, unet, vae, content, caplog):
    content["unet_lora_others_modules"] = []
    content["state_dict_unet"] = {k: v for k, v in content["state_dict_unet"].items() if "mid_block" not in k}
    with caplog.at_level(logging.WARNING):
        check_fits(load(tmp_path, content), layer_shapes(unet), layer_shapes(vae))
    assert "mid_block.resnets.0.conv1" in caplog.text


@pytest.mark.parametrize(
    ("width", "name"), [(768, "Stable Diffusion 1.x"), (2048, "SDXL"), (48, "48 features")]
)
def test_a_base_of_another_model_is_told_by_its_name_alone(tmp_path, vae, content, width, name):
    other = tiny_unet(cross_attention_dim=width)
    with pytest.raises(CheckpointError, match=f"the base is .*{name}") as caught:
        check_fits(load(tmp_path, content), layer_shapes(other), layer_shapes(vae))
    assert len(str(caught.value).replace(str(tmp_path), "")) < 200
