"""The generator's verbs: sizes, strength, gradients, prompts, tiles, half precision, and what goes wrong."""

from __future__ import annotations

import logging
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mini_models.networks import MiniModel
from torch import Tensor

import osediff_core
from osediff_core import OneStepGenerator
from osediff_core.backends.load_base import load_base
from osediff_core.errors import (
    BaseModelError,
    CheckpointError,
    ImageError,
    NonFiniteError,
    OptionError,
    OutOfMemory,
)
from osediff_core.runtime.device import parse_device, parse_dtype
from osediff_core.tiles.unet import UNetTiling
from osediff_core.weights.checkpoint import read_weights, write_weights

PROMPT = "a cat, sitting, wood,"


def image(height: int = 32, width: int = 48, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(7)) * 2 - 1


# --- the verbs ---


def test_it_loads_within_an_inference_mode_and_serves_outside_of_it() -> None:
    with torch.inference_mode():
        generator = OneStepGenerator.load("tiny", dtype="fp32", device="cpu")
    lq = torch.zeros(1, 3, 16, 16, requires_grad=True)
    generator.decode(generator.denoise(generator.encode(lq), generator.encode_prompt([""]))).sum().backward()
    assert lq.grad.abs().sum() > 0


def test_shapes_and_ranges_along_the_way(mini_generator: OneStepGenerator) -> None:
    lq = image(32, 48, batch=2)
    with torch.inference_mode():
        latents = mini_generator.encode(lq)
        embeds = mini_generator.encode_prompt([PROMPT, ""])
        restored = mini_generator.decode(mini_generator.denoise(latents, embeds))
    assert latents.shape == (2, 4, 4, 6) and embeds.shape == (2, 77, 64) and restored.shape == lq.shape
    assert latents.dtype == restored.dtype == torch.float32
    assert restored.abs().max() <= 1


def test_the_step_is_the_paper_s_equation(mini_generator: OneStepGenerator) -> None:
    latents = torch.randn(1, 4, 8, 8)
    with torch.inference_mode():
        embeds = mini_generator.encode_prompt([PROMPT])
        eps = mini_generator.predict(latents, embeds)
        z_h = mini_generator.denoise(latents, embeds)
    abar = 0.0046601
    torch.testing.assert_close(z_h, (latents - (1 - abar) ** 0.5 * eps) / abar**0.5, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (13, 8), (37, 51)])
def test_restore_takes_any_size_and_gives_it_back(
    mini_generator: OneStepGenerator, height: int, width: int
) -> None:
    restored = mini_generator.restore(image(height, width), PROMPT)
    assert restored.shape == (1, 3, height, width) and torch.isfinite(restored).all()


def test_images_of_a_batch_do_not_meet(mini_generator: OneStepGenerator) -> None:
    lq, prompts = image(batch=2), [PROMPT, "a dog"]
    together = mini_generator.restore(lq, prompts)
    apart = torch.cat([mini_generator.restore(lq[i : i + 1], prompts[i]) for i in range(2)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-4)
    assert not torch.allclose(mini_generator.restore(lq, PROMPT)[1], together[1])


def test_every_verb_passes_gradients(mini_generator: OneStepGenerator) -> None:
    mini_generator.restore(
        image(), PROMPT
    )  # remembers the prompt in inference mode, which must do no harm here
    lq = image().requires_grad_()
    latents = mini_generator.encode(lq, sample_posterior=True)
    embeds = mini_generator.encode_prompt([PROMPT])
    mini_generator.decode(mini_generator.denoise(latents, embeds)).mean().backward()
    assert lq.grad is not None and lq.grad.abs().sum() > 0
    assert not embeds.requires_grad


def test_the_posterior_is_drawn_only_when_asked_and_the_same_for_a_seed(
    mini_generator: OneStepGenerator,
) -> None:
    def draw(seed: int) -> Tensor:
        return mini_generator.encode(image(), True, torch.Generator().manual_seed(seed))

    with torch.inference_mode():
        mode = mini_generator.encode(image())
        assert torch.equal(mode, mini_generator.encode(image()))
        assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
        zero = torch.zeros(1, 4, 4, 6)
        assert torch.equal(mini_generator.encode(image(), posterior_noise=zero), mode)


# --- tiles ---


def test_one_tile_over_everything_changes_nothing(mini_generator: OneStepGenerator) -> None:
    lq = image(64, 48)
    assert torch.equal(mini_generator.restore(lq, unet_tiling=UNetTiling(96, 32)), mini_generator.restore(lq))


def test_tiles_at_once_give_the_same_as_one_by_one(mini_generator: OneStepGenerator) -> None:
    latents, steps = torch.randn(1, 4, 20, 28), []
    with torch.inference_mode():
        embeds = mini_generator.encode_prompt([PROMPT])
        single = mini_generator.predict(
            latents, embeds, tiling=UNetTiling(16, 6), progress=lambda *step: steps.append(step)
        )
        batched = mini_generator.predict(latents, embeds, tiling=UNetTiling(16, 6, batch=3))
    torch.testing.assert_close(batched, single, rtol=0, atol=1e-5)
    assert steps == [(i, 6) for i in range(1, 7)]


def test_a_narrow_latent_is_tiled_where_the_official_code_hangs(mini_generator: OneStepGenerator) -> None:
    restored = mini_generator.restore(image(32, 400), unet_tiling=UNetTiling(12, 4))
    assert restored.shape == (1, 3, 32, 400)


@pytest.mark.parametrize("tiling", [UNetTiling(0), UNetTiling(8, 8), UNetTiling(2, grid="round")])
def test_impossible_tiles_are_refused_even_where_none_are_needed(
    mini_generator: OneStepGenerator, tiling: UNetTiling
) -> None:
    with pytest.raises(OptionError):
        mini_generator.restore(image(8, 8), unet_tiling=tiling)


# --- weights and strength ---


def test_strength_goes_from_the_base_to_the_official_result_and_back(mini: MiniModel) -> None:
    generator = OneStepGenerator.load(mini.base, mini.weights, dtype="fp32", device="cpu")
    base = load_base(mini.base, "fp32", "cpu")
    plain = OneStepGenerator(base.vae, base.unet, base.text, base.schedule)
    lq = image()
    full = generator.restore(lq, PROMPT)
    generator.set_strength(unet=0.0, vae=0.0)
    assert torch.equal(generator.restore(lq, PROMPT), plain.restore(lq, PROMPT))
    generator.set_strength(unet=0.5)
    half = generator.restore(lq, PROMPT)
    assert not torch.allclose(half, full, atol=1e-2)
    generator.set_strength(unet=1.0, vae=1.0)
    assert torch.equal(generator.restore(lq, PROMPT), full)
    loaded_half = OneStepGenerator.load(
        mini.base, mini.weights, dtype="fp32", device="cpu", strength=(0.5, 0.0)
    )
    assert torch.equal(loaded_half.restore(lq, PROMPT), half)


def test_without_the_base_s_copy_the_result_is_the_same_and_the_strength_fixed(
    mini: MiniModel, mini_generator: OneStepGenerator
) -> None:
    lean = OneStepGenerator.load(mini.base, mini.weights, dtype="fp32", device="cpu", keep_base=False)
    assert torch.equal(lean.restore(image(), PROMPT), mini_generator.restore(image(), PROMPT))
    with pytest.raises(OptionError):
        lean.set_strength(unet=0.5)


def state_of(generator: OneStepGenerator) -> dict[str, Tensor]:
    parts = {"unet": generator.unet, "vae": generator.vae, "text": generator.text}
    return {
        f"{name} {key}": value.clone()
        for name, part in parts.items()
        for key, value in part.module.state_dict().items()
        if value.is_floating_point()
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_fp32_merge_rounded_once_at_every_strength(
    mini: MiniModel, dtype: torch.dtype
) -> None:
    exact = OneStepGenerator.load(mini.base, mini.weights, dtype="fp32", device="cpu")
    half = OneStepGenerator.load(mini.base, mini.weights, dtype=dtype, device="cpu")
    for strength in (1.0, 0.5, 0.0, 1.0):
        for generator in (exact, half):
            generator.set_strength(strength, strength)
        rounded = state_of(half)
        for name, value in state_of(exact).items():
            assert torch.equal(rounded[name], value.to(dtype)), (name, strength)


def test_a_base_stored_in_half_precision_is_merged_in_fp32_too(mini: MiniModel, tmp_path: Path) -> None:
    stored = load_base(mini.base, "fp16", "cpu")
    shutil.copytree(mini.base, tmp_path / "base")
    for part in ("unet", "vae"):
        getattr(stored, part).module.save_pretrained(tmp_path / "base" / part)
    exact, half = (
        OneStepGenerator.load(tmp_path / "base", mini.weights, dtype=dtype, device="cpu")
        for dtype in ("fp32", "fp16")
    )
    rounded = state_of(half)
    assert all(value.dtype == torch.float32 for value in state_of(exact).values())
    assert all(torch.equal(rounded[name], value.half()) for name, value in state_of(exact).items())
    half.set_strength(0, 0)
    assert all(
        torch.equal(p, dict(stored.unet.module.named_parameters())[name])
        for name, p in half.unet.module.named_parameters()
    )


def test_strength_needs_weights(mini: MiniModel) -> None:
    base = load_base(mini.base, "fp32", "cpu")
    with pytest.raises(OptionError, match="unet"):
        OneStepGenerator(base.vae, base.unet, base.text, base.schedule).set_strength(unet=0.5)


def test_the_timestep_comes_with_the_weights(mini: MiniModel, tmp_path: Path) -> None:
    assert OneStepGenerator.load(mini.base, mini.weights, device="cpu").timestep == 999
    weights = read_weights(mini.weights)
    for timestep in ("600", "1000"):
        weights.metadata["timestep"] = timestep
        write_weights(tmp_path / f"{timestep}.safetensors", weights)
    assert OneStepGenerator.load(mini.base, tmp_path / "600.safetensors", device="cpu").timestep == 600
    with pytest.raises(CheckpointError, match=r"1000\.safetensors is for timestep 1000"):
        OneStepGenerator.load(mini.base, tmp_path / "1000.safetensors", device="cpu")
    base = load_base(mini.base, "fp32", "cpu")
    with pytest.raises(OptionError, match="1000"):
        OneStepGenerator(base.vae, base.unet, base.text, base.schedule, 1000)


def test_weights_given_as_the_base_are_called_weights(mini: MiniModel) -> None:
    with pytest.raises(BaseModelError, match=r"is OSEDiff weights.*as the weights"):
        OneStepGenerator.load(mini.weights)


def test_a_base_without_weights_of_its_own_asks_for_some(mini: MiniModel) -> None:
    with pytest.raises(CheckpointError, match="--weights"):
        OneStepGenerator.load(mini.base, device="cpu")


def test_weights_for_another_prediction_type_are_refused(mini: MiniModel, tmp_path: Path) -> None:
    weights = read_weights(mini.weights)
    weights.metadata["prediction_type"] = "v_prediction"
    write_weights(tmp_path / "v.safetensors", weights)
    with pytest.raises(BaseModelError, match="v_prediction"):
        OneStepGenerator.load(mini.base, tmp_path / "v.safetensors", device="cpu")


# --- prompts ---


def test_prompts_are_remembered(mini_generator: OneStepGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    first = mini_generator.encode_prompt(["a red barn", "a red barn", "snow"])
    assert torch.equal(first[0], first[1])
    monkeypatch.setattr(
        mini_generator.text, "module", mini_generator.text.module.__class__
    )  # must not be called
    monkeypatch.setattr(type(mini_generator.text), "dtype", torch.float32)
    monkeypatch.setattr(type(mini_generator.text), "device", torch.device("cpu"))
    assert torch.equal(mini_generator.text(["snow", "a red barn"]), first[[2, 0]])


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(
    mini_generator: OneStepGenerator, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert mini_generator.encode_prompt(["window, " * 60]).shape == (1, 77, 64)
    assert "122 tokens" in caplog.text


def test_prompts_that_do_not_match_the_images_are_refused(mini_generator: OneStepGenerator) -> None:
    with pytest.raises(OptionError, match="2 prompts for 1 image;"):
        mini_generator.restore(image(), ["a", "b"])


# --- wrong images ---


def test_images_that_do_not_suit_are_refused(mini_generator: OneStepGenerator) -> None:
    with pytest.raises(ImageError, match="multiples of 8"):
        mini_generator.encode(image(30, 32))
    with pytest.raises(ImageError, match="shape"):
        mini_generator.encode(torch.zeros(3, 32, 32))
    with pytest.raises(ImageError, match="shape"):
        mini_generator.restore(torch.zeros(1, 1, 32, 32))


def test_not_a_number_in_the_image_is_named(mini_generator: OneStepGenerator) -> None:
    lq = image()
    lq[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="encode"):
        mini_generator.restore(lq)
    with torch.enable_grad(), pytest.raises(NonFiniteError, match="encode"):  # a script's default mode
        mini_generator.encode(lq)


# --- precision, devices, memory ---


def test_half_precision_stays_near_and_overflow_is_run_again_in_fp32(
    mini: MiniModel, mini_generator: OneStepGenerator, caplog: pytest.LogCaptureFixture
) -> None:
    half = OneStepGenerator.load(mini.base, mini.weights, dtype="bf16", device="cpu")
    lq = image(64, 64)
    exact = mini_generator.restore(lq, PROMPT)
    assert (
        half.restore(lq, PROMPT) - exact
    ).square().mean() < 4e-3  # bf16 has 8 bits, the step multiplies by 14.6

    half = OneStepGenerator.load(mini.base, mini.weights, dtype="fp16", device="cpu")
    before = [p.data_ptr() for p in half.vae.module.parameters()]
    assert not caplog.records
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        image_ = half.decode(torch.full((1, 4, 4, 4), 1e5))  # infinite in fp16
    assert "decode gave NaN or infinity in fp16" in caplog.text and torch.isfinite(image_).all()
    assert half.vae.dtype == torch.float16
    assert [p.data_ptr() for p in half.vae.module.parameters()] == before


class _Failing:
    """A part that fails as a runtime out of memory does."""

    dtype, downscale, latent_channels = torch.float32, 8, 4

    def __init__(self, message: str) -> None:
        self.message = message

    def encoder(self, height: int, width: int) -> None:
        return None  # not one that is tiled

    def encode(self, image: Tensor) -> Tensor:
        raise RuntimeError(self.message)

    def fp32(self) -> AbstractContextManager[None]:
        return nullcontext()


def test_out_of_memory_is_said_in_one_sentence(mini_generator: OneStepGenerator) -> None:
    def generator(message: str) -> OneStepGenerator:
        real = mini_generator
        return OneStepGenerator(_Failing(message), real.unet, real.text, real.schedule)

    for message in (
        "CUDA out of memory. Tried to allocate 2 GiB",
        "DefaultCPUAllocator: can't allocate memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "std::bad_alloc",
    ):
        with pytest.raises(OutOfMemory, match="encode stage ran out of memory"):
            generator(message).restore(image())
    with pytest.raises(RuntimeError, match="another failure"):
        generator("another failure").restore(image())


def test_dtype_and_device_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_dtype("auto", "cpu") == torch.float32
    assert parse_dtype("auto", "cuda") == torch.float16
    assert parse_dtype("bf16") == parse_dtype("bfloat16") == parse_dtype(torch.bfloat16) == torch.bfloat16
    assert parse_device("cpu") == torch.device("cpu")
    for wrong in ("fp8", "int8", torch.float64):
        with pytest.raises(OptionError):
            parse_dtype(wrong)
    for wrong in ("gpu", "cuda:77", "meta"):
        with pytest.raises(OptionError):
            parse_device(wrong)
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: True, device_count=lambda: 1))
    assert parse_device("auto") == torch.device("cuda") and parse_device("cuda:0") == torch.device("cuda:0")


def test_the_public_names_are_there() -> None:
    assert osediff_core.__version__ == "0.1.0"
    assert osediff_core.OneStepGenerator is OneStepGenerator
    with pytest.raises(AttributeError):
        osediff_core.nothing  # noqa: B018


def test_the_memory_layout_of_the_input_does_not_matter():
    """Of channels-last tensors PyTorch's group norm on the CPU is off by 7e-4 at this size."""
    generator = OneStepGenerator.load("tiny", dtype="fp32", device="cpu")
    image = torch.rand(1, 3, 512, 256) * 2 - 1
    embeds = generator.encode_prompt([""])
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad():
            latents = generator.encode(image.contiguous(memory_format=layout))
            restored = generator.denoise(latents.contiguous(memory_format=layout), embeds)
            results.append(generator.decode(restored.contiguous(memory_format=layout)))
    assert torch.equal(*results)
