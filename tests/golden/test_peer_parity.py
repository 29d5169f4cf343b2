"""The numbers of other one-step methods' official codes: the same random weights must give the same results in fp32.

The weights are made by the reference data's own program; without the reference data these tests are skipped. What needs
none is tested in tests/core/weights/test_methods.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_cases import Golden, peer_cases
from mini_models.networks import MiniModel
from torch import Tensor

from osediff_core import OneStepGenerator, Picture, RestoreOptions, load_model, restore_picture
from osediff_core.direct.restorer import upscale
from osediff_core.tiles.unet import UNetTiling

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """One case of the official code's numbers."""
    return Golden(request.param)


@pytest.fixture(scope="session")
def load(mini: MiniModel, peers: Path) -> Callable[..., OneStepGenerator]:
    """weights' name -> a generator of them on the miniature."""
    return lambda name, **options: OneStepGenerator.load(
        mini.base, peers / name, dtype="fp32", device="cpu", **options
    )


def close(found: Tensor, expected: Tensor, bar: float, name: str) -> None:
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=bar, msg=lambda m: f"{name}: {m}")


def image(golden: Golden, key: str = "input_u8") -> Tensor:
    return golden[key].permute(2, 0, 1)[None].float() / 255 * 2 - 1


def sliders_of(key: str) -> dict[str, float]:
    """model_pred_p0.5_s1.5 -> what that is of."""
    pixel, semantic = key.split("_p")[-1].split("_s")
    return {"pixel": float(pixel), "semantic": float(semantic)}


def same_bytes(found: np.ndarray, expected: Tensor) -> None:
    difference = np.abs(found.astype(int) - expected.numpy().astype(int))
    assert difference.max() <= 2  # as in test_inference_parity
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("golden", peer_cases("pisa_h"), indirect=True)
def test_pisa_sr(golden: Golden, load: Callable[..., OneStepGenerator]) -> None:
    generator = load("pisa_sr.pkl")
    with torch.inference_mode():
        embeds = generator.encode_prompt([""])
        close(embeds, golden["prompt_embeds"], 1e-5, "prompt_embeds")
        latents = generator.encode(image(golden))
        close(latents, golden["lq_latent"], 1e-5, "lq_latent")
        close(generator.predict(latents, embeds), golden["model_pred"], 1e-5, "model_pred")
        restored = generator.denoise(latents, embeds)
        close(restored, golden["x_denoised"], 1e-5, "x_denoised")
        close(generator.decode(restored), golden["output"], 5e-5, "output")
        for key in (key for key in golden if key.startswith("model_pred_p")):
            generator.set_sliders(**sliders_of(key))
            close(generator.predict(latents, embeds), golden[key], 1e-5, key)
            denoised = key.replace("model_pred", "x_denoised")
            close(generator.denoise(latents, embeds), golden[denoised], 1e-5, denoised)


@pytest.mark.parametrize("color_fix", ["none", "adain", "wavelet"])
@pytest.mark.parametrize("golden", peer_cases("pisa_h"), indirect=True)
def test_pisa_sr_whole_pictures(
    golden: Golden, color_fix: str, load: Callable[..., OneStepGenerator]
) -> None:
    picture = Picture(golden["input_u8"].numpy().astype(np.float32) / 255)
    options = RestoreOptions(scale=1, color_fix=color_fix, tile=None)
    ours = restore_picture(load("pisa_sr.pkl"), picture, options).samples()
    same_bytes(ours, golden["output_u8" if color_fix == "none" else f"output_{color_fix}_u8"])


@pytest.mark.parametrize("golden", peer_cases("pisa_tiled"), indirect=True)
def test_pisa_sr_in_tiles(golden: Golden, load: Callable[..., OneStepGenerator]) -> None:
    sliders = {} if golden.path.stem.endswith("default") else sliders_of(golden.path.stem)
    generator = load("pisa_sr.pkl", sliders=sliders)
    tile, overlap = golden.path.stem.split("tiled")[1].split("_")[:2]
    tiling = UNetTiling(int(tile), int(overlap))
    with torch.inference_mode():
        latents = generator.encode(image(golden))
        embeds = generator.encode_prompt([""])
        close(generator.predict(latents, embeds, tiling=tiling), golden["model_pred"], 1e-5, "model_pred")
        restored = generator.denoise(latents, embeds, tiling=tiling)
        close(restored, golden["x_denoised"], 1e-5, "x_denoised")
        close(generator.decode(restored), golden["output"], 5e-5, "output")


@pytest.mark.parametrize("golden", peer_cases("omgsr"), indirect=True)
def test_omgsr_s(golden: Golden, load: Callable[..., OneStepGenerator]) -> None:
    generator = load("omgsr")
    tiled = golden.path.stem.partition("tiled")[2].split("_")[:2]
    tiling = UNetTiling(int(tiled[0]), int(tiled[1])) if tiled[0] else UNetTiling()
    with torch.inference_mode():
        embeds = generator.encode_prompt([""])
        close(embeds, golden["prompt_embeds"], 1e-5, "prompt_embeds")
        latents = generator.encode(image(golden))
        close(latents, golden["posterior_mean"] * 0.18215, 1e-5, "posterior_mean")
        close(generator.predict(latents, embeds, tiling=tiling), golden["unet_pred"], 1e-5, "unet_pred")
        restored = generator.denoise(latents, embeds, tiling=tiling)
        close(restored, golden["x_denoised"], 1e-5, "x_denoised")
        close(generator.decode(restored), golden["output"], 5e-5, "output")


@pytest.mark.parametrize("golden", peer_cases("hypir"), indirect=True)
def test_hypir(golden: Golden, load: Callable[..., OneStepGenerator]) -> None:
    """Its VAE's tiles, which are blended and not exact, are not ours; those of the UNet are."""
    report = json.loads(golden.path.with_name("report_hypir.json").read_text(encoding="utf-8"))
    args = report[golden.path.name]["args"]
    tile, stride = args["patch_size"] // 8, args["stride"] // 8
    generator = load("HYPIR_sd2.pth", method="hypir")
    official = golden["posterior_mean"] * 0.18215
    with torch.inference_mode():
        embeds = generator.encode_prompt([args["prompt"]])
        close(embeds, golden["prompt_embeds"], 1e-5, "prompt_embeds")
        restored = generator.denoise(official, embeds, tiling=UNetTiling(tile, tile - stride))
        close(restored, golden["x_denoised_unscaled"] * 0.18215, 1e-5, "x_denoised_unscaled")
        if "unet_pred" in golden:  # one tile
            latents = generator.encode(golden["padded"])
            close(latents, official, 1e-5, "posterior_mean")
            close(generator.predict(latents, embeds), golden["unet_pred"], 1e-5, "unet_pred")
            close(generator.decode(restored), golden["decoded"].clamp(-1, 1), 5e-5, "decoded")


@pytest.mark.parametrize("golden", peer_cases("adcsr_mini"), indirect=True)
def test_adcsr(golden: Golden, peers: Path) -> None:
    restorer = load_model(
        weights=peers / "net_params_200.pkl", decoder=peers / "halfDecoder.ckpt", dtype="fp32", device="cpu"
    )
    lq = image(golden)
    with torch.inference_mode():
        close(restorer(lq), golden["raw"], 5e-5, "raw")
        restored = upscale(restorer, lq)
        close((restored + 1) / 2, golden["output01"][None], 5e-5, "output01")
    picture = Picture(golden["input_u8"].numpy().astype(np.float32) / 255)
    same_bytes(
        restore_picture(restorer, picture, RestoreOptions(color_fix="none")).samples(), golden["output_u8"]
    )


@pytest.mark.parametrize("golden", peer_cases("s3diff"), indirect=True)
def test_s3diff(golden: Golden, load: Callable[..., OneStepGenerator]) -> None:
    """The picture enlarged and padded as officially; what is restored of it."""
    generator = load("s3diff.pkl")
    small, enlarged = image(golden), golden["enlarged"]
    height, width = enlarged.shape[-2:]
    padded = torch.nn.functional.pad(enlarged, (0, -width % 64, 0, -height % 64), mode="reflect") * 2 - 1
    with torch.inference_mode():
        close(generator.prepare.degradation(small), golden["degradation"], 1e-5, "degradation")
        generator.look_at(small)
        embeds = generator.encode_prompt([generator.method.default_prompt])
        latents = generator.encode(padded)
        close(latents, golden["lq_latent"], 1e-5, "lq_latent")
        close(generator.predict(latents, embeds), golden["model_pred"], 1e-5, "model_pred")
        restored = generator.denoise(latents, embeds)
        close(restored, golden["x_denoised"], 1e-4, "x_denoised")  # as of OSEDiff, whose timestep it has
        output = generator.decode(restored)[..., :height, :width]
        close(output, golden["output"], 5e-5, "output")
