"""One-step methods besides OSEDiff, on files made here: told apart by content, read, and run by their own rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mini_models.methods import write_lora_methods
from mini_models.networks import MiniModel
from refusals import refused
from safetensors.torch import save_file
from torch import Tensor

from osediff_core import OneStepGenerator
from osediff_core.backends.load_base import load_base
from osediff_core.errors import CheckpointError, OptionError
from osediff_core.weights.checkpoint import read_weights
from osediff_core.weights.describe import describe
from osediff_core.weights.formats.pisa_sr import passes
from osediff_core.weights.identify import identify


@pytest.fixture(scope="module")
def files(mini: MiniModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    base = load_base(mini.base, "fp32", "cpu")
    write_lora_methods(folder, base.unet.module, base.vae.module)
    return folder


@pytest.fixture(scope="module")
def load(mini: MiniModel, files: Path) -> Callable[..., OneStepGenerator]:
    return lambda name, **options: OneStepGenerator.load(
        mini.base, files / name, dtype="fp32", device="cpu", **options
    )


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))


def calls_of(generator: OneStepGenerator, latents: Tensor) -> tuple[Tensor, int]:
    """z - x0, and how often the UNet was called for it."""
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1

    with torch.inference_mode():
        embeds = generator.encode_prompt([""])
        handle = generator.unet.module.register_forward_hook(counted)
        try:
            restored = generator.denoise(latents, embeds)
        finally:
            handle.remove()
    return latents - restored, count


@pytest.mark.parametrize("keep_base", [True, False])
def test_pisas_sliders_weigh_predictions(
    keep_base: bool, load: Callable[..., OneStepGenerator], latents: Tensor
) -> None:
    generator = load("pisa_sr.pkl", keep_base=keep_base)
    both, count = calls_of(generator, latents)
    assert count == 1
    generator.set_sliders(pixel=1, semantic=0)
    pix, count = calls_of(generator, latents)
    assert count == 1 and (both - pix).abs().max() > 1e-3
    for pixel, semantic, expected_count in (
        (0.5, 1.5, 2),
        (0, 1, 2),
        (1.2, 0.4, 2),
        (0.7, 0.7, 1),
        (0.3, 0, 1),
        (0, 0, 0),
        (1, 1, 1),
    ):
        generator.set_sliders(pixel=pixel, semantic=semantic)
        found, count = calls_of(generator, latents)
        assert count == expected_count, (pixel, semantic)
        torch.testing.assert_close(found, pixel * pix + semantic * (both - pix), rtol=0, atol=2e-5)


def test_pisas_sliders_are_given_when_loading(load: Callable[..., OneStepGenerator], latents: Tensor) -> None:
    generator = load("pisa_sr.pkl")
    for sliders, fidelity in (({"semantic": 0.5}, 0.25), ({"semantic": 0.0, "pixel": 0.5}, 0.75)):
        generator.set_sliders(**sliders)
        expected, _ = calls_of(generator, latents)
        assert torch.equal(calls_of(load("pisa_sr.pkl", sliders=sliders), latents)[0], expected)
        generator.set_fidelity(fidelity)
        assert torch.equal(calls_of(generator, latents)[0], expected)
        assert torch.equal(calls_of(load("pisa_sr.pkl", fidelity=fidelity), latents)[0], expected)
    generator.set_fidelity(1)
    assert torch.equal(calls_of(generator, latents)[0], torch.zeros_like(latents))
    assert passes(1, 1) == ((1, ("pix", "sem"), None),)
    with refused(OptionError, "Fidelity", "pixel"):
        load("pisa_sr.pkl", sliders={"pixel": 1.0}, fidelity=0.5)
    with refused(OptionError, "PiSA-SR has no slider noise", "pixel and semantic"):
        generator.set_sliders(noise=1)
    with refused(OptionError, "OMGSR-S has no slider pixel", "it has none"):
        load("omgsr", sliders={"pixel": 1.0})


def test_each_acts_by_its_own_timestep_scale_and_rule(
    mini: MiniModel, files: Path, load: Callable[..., OneStepGenerator], latents: Tensor
) -> None:
    for name, method, timestep in (("omgsr", None, 273), ("dump.pth", "hypir", 200)):
        weights = read_weights(files / name, method)
        generator, base = load(name, method=method), load_base(mini.base, "fp32", "cpu")
        assert generator.timestep == timestep
        with torch.inference_mode():
            parameters = dict(base.unet.module.named_parameters())
            for module, (a, b) in weights.unet_lora.items():
                weight = parameters[f"{module}.weight"]
                scale = 0.5 if name == "omgsr" else 1.0  # alpha / r as `write_omgsr` has it
                weight += scale * (b.flatten(1) @ a.flatten(1)).view_as(weight)
            embeds = generator.encode_prompt(["a cat"])
            output = base.unet(latents, torch.tensor([timestep]), embeds)
            abar = base.schedule.alphas_cumprod[timestep]
            expected = (latents - (1 - abar).sqrt() * output) / abar.sqrt()
            torch.testing.assert_close(generator.denoise(latents, embeds), expected, rtol=1e-4, atol=1e-4)


def test_they_say_what_they_are(files: Path) -> None:
    for name, method, title, timestep, licence in (
        ("pisa_sr.pkl", None, "PiSA-SR", 1, "Apache-2.0"),
        ("omgsr", None, "OMGSR-S", 273, "none given"),
        ("dump.pth", "hypir", "HYPIR", 200, "non-commercial"),
    ):
        facts = describe(files / name, method)
        assert (facts["method"]["title"], facts["method"]["timestep"]) == (title, timestep)
        assert licence in facts["method"]["licence"] and facts["method"]["source"].startswith("https://")
        assert facts["method"]["base"] == "stable-diffusion-2-1-base"
    assert list(describe(files / "pisa_sr.pkl")["method"]["sliders"]) == ["pixel", "semantic"]


def test_a_dump_without_a_name_is_never_guessed(files: Path, mini: MiniModel, tmp_path: Path) -> None:
    dump = files / "dump.pth"
    assert identify(dump).kind == "unet_lora" and not identify(dump).is_weights
    with refused(CheckpointError, "--method hypir"):
        read_weights(dump)
    with refused(OptionError, "no method 'hyper'", "hypir", "pisa-sr"):
        read_weights(dump, "hyper")
    for wrong in ("pisa-sr", "osediff", "omgsr-s"):
        with refused(CheckpointError, f"not weights of the method {wrong}"):
            read_weights(dump, wrong)
    with refused(CheckpointError, "OSEDiff weights", "not weights of the method hypir; leave out the method"):
        read_weights(mini.weights, "hypir")
    assert read_weights(mini.weights, "osediff").method == "osediff"
    content = torch.load(dump, weights_only=True)
    content["conv_in.lora_A.default.weight"] = torch.zeros(2, 4, 3, 3)  # HYPIR does not adapt it
    content["conv_in.lora_B.default.weight"] = torch.zeros(32, 2, 1, 1)
    torch.save(content, tmp_path / "other.pth")
    assert "hypir" not in identify(tmp_path / "other.pth").what
    with refused(CheckpointError, "not weights of the method hypir"):
        read_weights(tmp_path / "other.pth", "hypir")


def test_the_published_hypir_is_known_by_its_rank(files: Path, tmp_path: Path) -> None:
    content = torch.load(files / "dump.pth", weights_only=True)
    published = {
        name: torch.zeros(256, *t.shape[1:])
        if ".lora_A." in name
        else torch.zeros(t.shape[0], 256, *t.shape[2:])
        for name, t in content.items()
    }
    torch.save(published, tmp_path / "HYPIR_sd2.pth")
    assert identify(tmp_path / "HYPIR_sd2.pth").kind == "hypir"
    assert read_weights(tmp_path / "HYPIR_sd2.pth").unet_lora.rank == 256


def test_half_of_omgsr_is_not_taken_for_something_else(files: Path, tmp_path: Path) -> None:
    folder = files / "omgsr"
    for half in ("unet_lora_adapter", "vae_encoder_lora_adapter"):
        with refused(
            CheckpointError, "half", "folder that holds unet_lora_adapter and vae_encoder_lora_adapter"
        ):
            read_weights(folder / half / "adapter_model.safetensors")
        alone = tmp_path / f"only_{half}"
        alone.mkdir()
        (alone / half).symlink_to(folder / half)
        with refused(CheckpointError, "unet_lora_adapter and vae_encoder_lora_adapter"):
            read_weights(alone)
    broken = tmp_path / "broken"
    for half in ("unet_lora_adapter", "vae_encoder_lora_adapter"):
        (broken / half).mkdir(parents=True)
        (broken / half / "adapter_model.safetensors").symlink_to(folder / half / "adapter_model.safetensors")
    config = broken / "unet_lora_adapter" / "adapter_config.json"
    (broken / "vae_encoder_lora_adapter" / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 2}')
    for text, words in (
        (None, "missing or no JSON"),
        ("{", "missing or no JSON"),
        ('{"r": 4}', "no whole r and no lora_alpha"),
        ('{"r": 4, "lora_alpha": 4, "use_dora": true}', "no plain LoRA (use_dora)"),
        ('{"r": 8, "lora_alpha": 8}', "rank 8, but its tensors have rank 4"),
    ):
        if text is not None:
            config.write_text(text)
        with refused(CheckpointError, words):
            read_weights(broken)


@pytest.mark.parametrize("key", ["unet_lora_others_modules_sem", "lora_rank_unet_sem", "state_dict_unet"])
def test_a_damaged_pisa_file_is_refused(key: str, files: Path, tmp_path: Path) -> None:
    content = torch.load(files / "pisa_sr.pkl", weights_only=True)
    wrong = {**content, key: [] if key == "state_dict_unet" else 3 if "modules" in key else "four"}
    torch.save(wrong, tmp_path / "wrong.pkl")
    with refused(CheckpointError, key):
        read_weights(tmp_path / "wrong.pkl")
    if key != "state_dict_unet":
        del content[key]
        torch.save(content, tmp_path / "short.pkl")
        with refused(CheckpointError, "lacks", key):
            read_weights(tmp_path / "short.pkl")


ZERO = torch.zeros(1)


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        (
            "codsr",
            {"state_dict_sft": {"a": ZERO}, "unet_lora_encoder_modules_default": []},
            "Chanson94/CODSR",
        ),
        (
            "tvt",
            {"rank_unet": 4, "state_dict_unet": {"up_blocks.4.resnets.0.conv1.weight": ZERO}},
            "Joyies/TVT",
        ),
        ("tvt", {"state_dict": {"vaeDe4.encoder.conv_in.weight": ZERO}}, "Joyies/TVT"),
        (
            "invsr",
            {
                "encoder.conv_in.weight": torch.zeros(256, 3, 3, 3),
                "encoder.time_embedding.linear_1.weight": ZERO,
            },
            "SD-Turbo",
        ),
        (
            "sinsr",
            {
                "input_blocks.0.0.weight": ZERO,
                "input_blocks.1.1.blocks.0.attn.relative_position_bias_table": ZERO,
            },
            "wyf0912/SinSR",
        ),
        (
            "sinsr",
            {
                "quantize.embedding.weight": ZERO,
                "encoder.conv_in.weight": ZERO,
                "decoder.conv_in.weight": ZERO,
            },
            "SinSR",
        ),
        (
            "tsd-sr",
            {
                "transformer.proj_out.lora_A.weight": ZERO,
                "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": ZERO,
            },
            "Stable Diffusion 3",
        ),
        ("tsd-sr", {"transformer.encoder.conv_in.lora_A.weight": ZERO}, "Stable Diffusion 3"),
        (
            "vosr",
            {
                "ema_model.x_embedder.proj.weight": ZERO,
                "ema_model.t_embedder.mlp.0.weight": ZERO,
                "ema_model.blocks.0.attn.qkv.weight": ZERO,
            },
            "cswry/VOSR",
        ),
    ],
)
def test_methods_that_do_not_run_here_are_named(
    kind: str, content: dict[str, object], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    found = identify(path)
    assert found.kind == kind and not found.is_weights
    with refused(CheckpointError, words, "needs", "does not run here but in its own code"):
        read_weights(path)
    assert "text-to-image" not in found.use
    json.dumps(describe(path))


def test_other_loras_are_still_what_they_were(tmp_path: Path) -> None:
    for name in (
        "lora_unet_down_blocks_0.lora_down.weight",
        "unet.down_blocks.0.attentions.0.to_q.lora_A.weight",
    ):
        save_file({name: ZERO}, tmp_path / "lora.safetensors")
        assert identify(tmp_path / "lora.safetensors").kind == "lora"


def wrapped(content: dict[str, object], form: str) -> dict[str, object]:
    """What trainers and converters make of a file."""
    if form == "ema_model.":
        return {f"{form}{name}": value for name, value in content.items()}
    if form == "half":
        return {
            name: value.half()
            if isinstance(value, Tensor)
            else wrapped(value, form)
            if isinstance(value, dict)
            else value
            for name, value in content.items()
        }
    return {"epoch": 3, form: content}


@pytest.mark.parametrize("form", ["state_dict", "params_ema", "model", "half", "ema_model."])
@pytest.mark.parametrize("name", ["pisa_sr.pkl", "dump.pth"])
def test_what_trainers_wrap_around_is_no_hindrance(name: str, form: str, files: Path, tmp_path: Path) -> None:
    content, method = torch.load(files / name, weights_only=True), None if name == "pisa_sr.pkl" else "hypir"
    if form == "ema_model." and method is None:
        content = content["state_dict_unet"]  # without its lists
    torch.save(
        wrapped(content, form), tmp_path / "renamed.bin", _use_new_zipfile_serialization=form != "model"
    )
    if form == "ema_model." and method is None:
        with refused(CheckpointError, "a part of OSEDiff's or PiSA-SR's weights", "give the whole file"):
            read_weights(tmp_path / "renamed.bin")
        return
    before, after = (read_weights(path, method) for path in (files / name, tmp_path / "renamed.bin"))
    assert after.metadata == before.metadata and set(after.tensors()) == set(before.tensors())
    for one, tensor in before.tensors().items():
        assert torch.equal(after.tensors()[one].float(), tensor.half().float() if form == "half" else tensor)


def test_a_folder_too_high_or_too_low_says_where_to_look(files: Path) -> None:
    for folder in (files, files / "omgsr" / "unet_lora_adapter"):
        with refused(CheckpointError, f"perhaps {files / 'omgsr'}"):
            read_weights(folder)


@pytest.mark.parametrize(
    ("what", "names"),
    [
        (
            "a ControlNet",
            ["control_model.input_blocks.0.0.weight", "control_model.input_hint_block.0.weight"],
        ),
        (
            "a ControlNet",
            ["controlnet_cond_embedding.conv_in.weight", "conv_in.weight", "down_blocks.0.x.weight"],
        ),
        ("an IP-Adapter", ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"]),
        ("a textual inversion", ["emb_params"]),
        ("a textual inversion", ["clip_g", "clip_l"]),
        ("a textual inversion", ["<cat>"]),
        ("a VAE", ["first_stage_model.encoder.conv_in.weight"]),
        ("a motion module", ["down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight"]),
        ("a LoRA in the diffusers", ["unet.mid_block.attentions.0.processor.to_q_lora.down.weight"]),
        ("a LoRA in the kohya", ["lora_unet_x.oft_blocks"]),
        ("an unknown kind of model", ["..", "../../etc/passwd", "a..b"]),
    ],
)
def test_other_peoples_files_are_named(what: str, names: list[str], tmp_path: Path) -> None:
    save_file({name: ZERO.clone() for name in names}, tmp_path / "osediff.safetensors")
    with refused(CheckpointError, f"is {what}", "not OSEDiff weights"):
        read_weights(tmp_path / "osediff.safetensors")


def test_a_lora_of_another_model_is_not_hypir(files: Path, tmp_path: Path) -> None:
    """Also where it has the rank and the modules of the published one."""
    content = {
        name: torch.zeros(256, *t.shape[1:])
        if ".lora_A." in name
        else torch.zeros(t.shape[0], 256, *t.shape[2:])
        for name, t in torch.load(files / "dump.pth", weights_only=True).items()
    }
    for width in (768, 2048):
        content |= {
            n: torch.zeros(256, width) for n in content if n.endswith("attn2.to_k.lora_A.default.weight")
        }
        torch.save(content, tmp_path / "lora.pth")
        assert identify(tmp_path / "lora.pth").kind == "unet_lora"
