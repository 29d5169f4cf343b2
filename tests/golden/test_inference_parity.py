"""The numbers of the official code: the same weights and images must give the same results in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_cases import GOLDEN_DATA, inference_cases
from torch import Tensor

from osediff_core import OneStepGenerator, Picture, RestoreOptions, restore_picture
from osediff_core.tiles.unet import UNetTiling

PROMPT = "a cat, sitting, wood,"
BARS = {"prompt_embeds": 1e-5, "lq_latent": 1e-5, "unet_pred": 1e-5, "x_denoised": 1e-4, "output": 5e-5}


def _tiling(name: str) -> UNetTiling:
    if "latent_tiles" not in name:
        return UNetTiling()
    tile, overlap = Path(name).stem.split("_")[-2:]
    return UNetTiling(int(tile), int(overlap))


@pytest.mark.parametrize("path", inference_cases(), ids=lambda path: path.stem)
def test_every_stage_agrees_with_the_official_code(path: Path, mini_generator: OneStepGenerator) -> None:
    with np.load(path) as data:
        golden = {key: torch.from_numpy(data[key]) for key in data.files}
    lq = golden["input_u8"].permute(2, 0, 1)[None].float() / 255 * 2 - 1
    tiling = _tiling(path.name)

    with torch.inference_mode():
        prompt_embeds = mini_generator.encode_prompt([PROMPT])
        lq_latent = mini_generator.encode(lq, posterior_noise=golden.get("posterior_noise"))
        unet_pred = mini_generator.predict(lq_latent, prompt_embeds, tiling=tiling)
        x_denoised = mini_generator.denoise(lq_latent, prompt_embeds, tiling=tiling)
        output = mini_generator.decode(x_denoised)

    ours: dict[str, Tensor] = {
        "prompt_embeds": prompt_embeds,
        "lq_latent": lq_latent,
        "unet_pred": unet_pred,
        "x_denoised": x_denoised,
        "output": output,
    }
    for key, bar in BARS.items():
        if key in golden:
            torch.testing.assert_close(
                ours[key], golden[key], rtol=0, atol=bar, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize("color_fix", ["none", "adain", "wavelet"])
@pytest.mark.parametrize(
    "path", [p for p in inference_cases() if "sampled" not in p.name], ids=lambda path: path.stem
)
def test_whole_pictures_equal_the_official_ones(
    path: Path, color_fix: str, mini_generator: OneStepGenerator
) -> None:
    key = "output_u8" if color_fix == "none" else f"output_{color_fix}_u8"
    with np.load(path) as data:
        if key not in data:
            pytest.skip(f"{path.name} has no {key}")
        lq, expected = data["input_u8"], data[key]
    tiling = _tiling(path.name)
    options = RestoreOptions(
        scale=1, prompt=PROMPT, color_fix=color_fix, tile=tiling.tile, overlap=tiling.overlap
    )
    picture = Picture(lq.astype(np.float32) / 255)
    ours = restore_picture(mini_generator, picture, options).samples()
    difference = np.abs(ours.astype(int) - expected.astype(int))
    # Float error moves a value over a level's edge now and then; adain may then stretch that one level to two.
    assert difference.max() <= (2 if color_fix == "adain" else 1)
    assert (difference > 0).mean() < 1e-3


def test_there_are_cases_in_the_repository() -> None:
    names = {path.name for path in inference_cases() if path.parent == GOLDEN_DATA}
    assert {"inference_128x128.npz", "inference_128x128_sampled.npz"} <= names
    assert any("latent_tiles" in name for name in names)


def test_restore_gives_the_same_image_as_the_stages(mini_generator: OneStepGenerator) -> None:
    with np.load(GOLDEN_DATA / "inference_128x128.npz") as data:
        lq, output = torch.from_numpy(data["input"]) * 2 - 1, torch.from_numpy(data["output"])
    torch.testing.assert_close(mini_generator.restore(lq, PROMPT), output, rtol=0, atol=5e-5)


def test_tokens_agree_with_the_official_code(mini_generator: OneStepGenerator) -> None:
    with np.load(GOLDEN_DATA / "inference_128x128.npz") as data:
        assert mini_generator.text.tokenize([PROMPT])[0].tolist() == data["input_ids"].tolist()
