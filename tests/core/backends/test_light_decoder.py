"""Light decoders in the place of a base's own: the right convention of each, exact tiles, and files told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import Decoder
from mini_models.networks import MiniModel
from refusals import refused
from safetensors.torch import save_file
from torch import Tensor

from osediff_core import OneStepGenerator
from osediff_core.errors import CheckpointError
from osediff_core.tiles.vae import VAETiling
from osediff_core.weights.checkpoint import read_decoder
from osediff_core.weights.decoder_file import ADCSR, TAESD, VOSR
from osediff_core.weights.identify import identify

WIDTHS = (32, 32, 64, 64)  # as AdcSR's and VOSR's, at half their size


@pytest.fixture(scope="module")
def half() -> Decoder:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return Decoder(4, 3, ("UpDecoderBlock2D",) * 4, WIDTHS, 2).eval()


@pytest.fixture(scope="module")
def tiny() -> AutoencoderTiny:
    with torch.random.fork_rng():
        torch.manual_seed(12)
        return AutoencoderTiny().eval()


@pytest.fixture(scope="module")
def files(half: Decoder, tiny: AutoencoderTiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoders")
    own = {f"decoder.{name}": tensor for name, tensor in half.state_dict().items()}
    wide = {"encoder.conv_in.weight": torch.zeros(128, 3, 3, 3)}  # what else a training may save with it
    torch.save({"state_dict": {**own, **wide}, "epoch": 3}, folder / "halfDecoder.ckpt")
    config = {"in_channels": 4, "out_channels": 3, "block_out_channels": list(WIDTHS), "layers_per_block": 2}
    torch.save({"config": config, "model_state_dict": half.state_dict()}, folder / "sd21_lwdecoder.pth")
    save_file(half.state_dict(), folder / "whose.safetensors")
    save_file(tiny.decoder.state_dict(), folder / "taesd_diffusers.safetensors")
    numbered = {}
    for name, tensor in tiny.decoder.state_dict().items():  # TAESD's own file counts its clamp as layer 0
        _, number, rest = name.split(".", 2)
        numbered[f"{int(number) + 1}.{rest}"] = tensor
    save_file(numbered, folder / "taesd_decoder.safetensors")
    return folder


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(1, 4, 20, 24, generator=torch.Generator().manual_seed(6))


def with_decoder(mini: MiniModel, path: Path) -> OneStepGenerator:
    return OneStepGenerator.load(mini.base, mini.weights, dtype="fp32", device="cpu", decoder=path)


@pytest.mark.parametrize("name", ["halfDecoder.ckpt", "sd21_lwdecoder.pth"])
@torch.inference_mode()
def test_half_decoders(
    name: str, mini: MiniModel, mini_generator: OneStepGenerator, files: Path, half: Decoder, latents: Tensor
) -> None:
    """AdcSR's stands behind the VAE's post_quant_conv, VOSR's does not."""
    generator = with_decoder(mini, files / name)
    unscaled = latents / 0.18215
    if name == "halfDecoder.ckpt":
        unscaled = mini_generator.vae.module.post_quant_conv(unscaled)
    expected = half(unscaled).clamp(-1, 1)
    torch.testing.assert_close(generator.decode(latents), expected, rtol=0, atol=1e-5)
    in_tiles = generator.decode(latents, tiling=VAETiling(64))
    torch.testing.assert_close(in_tiles, expected, rtol=0, atol=1e-4)
    assert (mini_generator.decode(latents) - expected).abs().max() > 0.1
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    assert torch.equal(generator.encode(image), mini_generator.encode(image)), "the encoder is the base's"


@pytest.mark.parametrize("name", ["taesd_decoder.safetensors", "taesd_diffusers.safetensors"])
@torch.inference_mode()
def test_taesd(name: str, mini: MiniModel, files: Path, tiny: AutoencoderTiny, latents: Tensor) -> None:
    generator = with_decoder(mini, files / name)
    expected = tiny.decode(latents).sample.clamp(-1, 1)
    torch.testing.assert_close(generator.decode(latents), expected, rtol=0, atol=1e-5)
    for tile in (40, 64):
        in_tiles = generator.decode(latents, tiling=VAETiling(tile))
        torch.testing.assert_close(in_tiles, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_half_precision_is_rescued_with_it(mini: MiniModel, files: Path, latents: Tensor) -> None:
    for name in ("halfDecoder.ckpt", "taesd_decoder.safetensors"):
        generator = OneStepGenerator.load(
            mini.base, mini.weights, dtype="bf16", device="cpu", decoder=files / name
        )
        assert {p.dtype for p in generator.vae.module.decoder.parameters()} == {torch.bfloat16}
        reference = with_decoder(mini, files / name).decode(latents)
        assert (generator.decode(latents) - reference).abs().mean() < 0.05


def test_files_are_told_apart(files: Path, mini: MiniModel, tmp_path: Path) -> None:
    for name, kind in (
        ("halfDecoder.ckpt", ADCSR),
        ("sd21_lwdecoder.pth", VOSR),
        ("taesd_decoder.safetensors", TAESD),
    ):
        assert read_decoder(files / name).kind == kind
        found = identify(files / name)
        assert (found.kind, found.what) == ("light_decoder", kind) and "--decoder" in found.use
    with refused(CheckpointError, "does not say whose it is"):
        read_decoder(files / "whose.safetensors")
    with refused(CheckpointError, "is OSEDiff weights", "not a light decoder"):
        read_decoder(mini.weights)
    vae = mini.base / "vae" / "diffusion_pytorch_model.safetensors"
    with refused(CheckpointError, "is a VAE, not a light decoder"):
        read_decoder(vae)
    with refused(CheckpointError, "decodes 4 latent channels at 1/8", "8 at 1/4"):
        OneStepGenerator.load("tiny", decoder=files / "halfDecoder.ckpt", dtype="fp32", device="cpu")
    content = torch.load(files / "sd21_lwdecoder.pth", weights_only=True)
    del content["model_state_dict"]["conv_out.bias"]
    torch.save(content, tmp_path / "short.pth")
    with refused(CheckpointError, "is not whole", "1 missing (conv_out.bias)"):
        with_decoder(mini, tmp_path / "short.pth")
    content["model_state_dict"]["conv_out.bias"] = torch.full((3,), torch.nan)
    torch.save(content, tmp_path / "nan.pth")
    with refused(CheckpointError, "1 not finite (conv_out.bias)"):
        with_decoder(mini, tmp_path / "nan.pth")
