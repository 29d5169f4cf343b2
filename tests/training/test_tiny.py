"""The embedded model's training: the start, the data, the loop that survives interruption, the whole chain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("efficientnet_lite_pytorch", reason="the train extra is not installed")

from osediff_core.evaluate.perceptual import FeatureDistance
from osediff_core.evaluate.psnr_ssim import psnr, psnr_y
from training.data.appearance import appearance_tags
from training.data.pictures import to_tensor
from training.recipes.tiny import fetch_photos
from training.recipes.tiny.architecture import VOCABULARY, build_vae
from training.recipes.tiny.degrade import INTERNET, degrade, enlarge
from training.recipes.tiny.linear_start import linear_start
from training.recipes.tiny.loop import Stage, StageOptions
from training.recipes.tiny.photos import PhotoPool
from training.recipes.tiny.tiles import cut, soften
from training.recipes.tiny.tokenizer import train_tokenizer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "photos"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of two photographs large enough to crop from (the examples, enlarged)."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted(EXAMPLES.glob("*.png"))[:2]:
        with Image.open(path) as image:
            image.resize((image.width * 3, image.height * 3), Image.Resampling.LANCZOS).save(
                folder / path.name
            )
    return folder


@pytest.fixture(scope="module")
def pool(photos) -> PhotoPool:
    return PhotoPool([photos])


def test_linear_start_reconstructs_photographs_untrained(pool):
    crops = pool.batch(24, 64, np.random.default_rng(0))
    torch.manual_seed(0)
    vae = build_vae()
    held_out = pool.batch(4, 64, np.random.default_rng(1))
    with torch.no_grad():
        before = psnr(vae(held_out).sample.clamp(-1, 1), held_out).mean()
        linear_start(vae, crops)
        latents = vae.encode(held_out).latent_dist.mode()
        after = psnr(vae.decode(latents).sample.clamp(-1, 1), held_out).mean()
    assert after > 24 and after > before + 10
    assert 0.5 < float(latents.std()) < 2


def test_tiles_repeat_with_their_seed_and_soft_ones_are_softer(photos, tmp_path):
    def pictures(folder: Path) -> list[np.ndarray]:
        return [np.asarray(Image.open(path), np.float32) for path in sorted(folder.iterdir())]

    def sharpness(picture: np.ndarray) -> float:
        return float(np.abs(np.diff(picture, axis=1)).mean())

    cut(photos, tmp_path / "tiles", count=3, size=96)
    cut(photos, tmp_path / "again", count=3, size=96)
    soften(tmp_path / "tiles", tmp_path / "soft", count=2)
    tiles, soft = pictures(tmp_path / "tiles"), pictures(tmp_path / "soft")
    assert all(map(np.array_equal, tiles, pictures(tmp_path / "again")))
    assert len(tiles) == 3 and len(soft) == 2
    for tile, softened in zip(tiles, soft, strict=False):
        assert softened.shape == tile.shape == (96, 96, 3)
        assert sharpness(softened) < sharpness(tile)


def test_degradation_repeats_with_its_seed_and_hurts(pool):
    hq = pool.crop(128, np.random.default_rng(3))
    first, again, other = (degrade(hq, INTERNET, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert enlarge(first).shape == hq.shape


def test_feature_distance_is_zero_for_equal_images_and_grows_with_blur(pool):
    distance = FeatureDistance(0)
    image = pool.batch(2, 128, np.random.default_rng(4))
    blurred = [nn.functional.avg_pool2d(image, k, 1, k // 2, count_include_pad=False) for k in (3, 7)]
    same, slightly, strongly = (distance(other, image) for other in (image, *blurred))
    assert same.abs().max() < 1e-6
    assert (same < slightly).all() and (slightly < strongly).all()


def test_psnr_on_luma_of_a_known_error():
    grey = torch.zeros(1, 3, 8, 8)
    # one level of 255 in all channels is 219/255 of a level on luma
    assert float(psnr_y(grey + 2 / 255, grey)) == pytest.approx(-20 * np.log10(219 / 255**2), abs=1e-3)


def test_appearance_tags_name_colour_and_brightness():
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    assert "red" in appearance_tags(red)
    assert {"black and white", "bright", "blurry"} <= set(
        appearance_tags(np.full((64, 64, 3), 230, np.uint8))
    )


def test_tokenizer_folder_is_a_clip_tokenizer(tmp_path):
    from transformers import CLIPTokenizer

    train_tokenizer(["great white shark", "golden retriever", "retriever"], tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("Retriever, ünknown", padding="max_length", max_length=77).input_ids
    assert len(tokenizer) == VOCABULARY and len(ids) == 77
    assert ids[0] == VOCABULARY - 2 and VOCABULARY - 1 in ids and ids[-1] == 0
    assert tokenizer.decode(ids, skip_special_tokens=True).startswith("retriever , ünknown")


class _Interrupted(Exception):
    pass


def _fit_a_line(folder: Path, stop_at: int | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    options = StageOptions(steps=30, learning_rate=0.05, warmup=3, ema_decay=0.9, save_every=7, log_every=10)
    stage = Stage("line", folder, {"model": model}, [{"params": list(model.parameters())}], options)

    def loss(step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        if step == stop_at:
            raise _Interrupted
        inputs = torch.from_numpy(rng.standard_normal((16, 4), np.float32)) + 0.1 * torch.randn(16, 4)
        return {"loss": (model(inputs)[:, 0] - inputs.sum(dim=1)).square().mean()}

    stage.run(loss, lambda: {"val": 0.0}, validate_every=10)
    return model.weight.detach().clone()


def test_an_interrupted_stage_ends_as_an_uninterrupted_one(tmp_path):
    whole = _fit_a_line(tmp_path / "whole")
    with pytest.raises(_Interrupted):
        _fit_a_line(tmp_path / "cut", stop_at=18)
    assert torch.equal(_fit_a_line(tmp_path / "cut"), whole)
    assert torch.equal(_fit_a_line(tmp_path / "cut"), whole)  # finished: read, not trained again


def test_a_loss_that_is_not_finite_stops_the_stage(tmp_path):
    model = nn.Linear(1, 1)
    stage = Stage("bad", tmp_path, {"m": model}, [{"params": list(model.parameters())}], StageOptions(3, 0.1))
    with pytest.raises(FloatingPointError, match="step 0"):
        stage.run(lambda step, rng: {"loss": model(torch.ones(1, 1)).sum() * float("nan")}, dict)


def test_no_photographs_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="fetch_photos"):
        PhotoPool([tmp_path])


def test_a_small_photograph_is_cropped_and_never_stretched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 340, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    crop = PhotoPool([tmp_path]).crop(256, np.random.default_rng(1), shrink=2)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (256, 256, 3))[..., 0, :, :, :]
    assert any((windows == mirrored).all(axis=(2, 3, 4)).any() for mirrored in (crop, crop[:, ::-1]))
    with pytest.raises(FileNotFoundError, match="no photograph has sides of 512 px"):
        cut(tmp_path, tmp_path / "tiles", count=1, size=512)


def test_a_source_that_cannot_be_fetched_costs_the_others_nothing(tmp_path, monkeypatch, caplog):
    def apt_without_debian(*command, cwd=None):
        if command[0] == "git" and command[1] == "clone":
            folder = Path(command[-1]) / "kodak"
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "a.png")
        return ""

    monkeypatch.setattr(fetch_photos, "_run", apt_without_debian)
    monkeypatch.setattr(
        fetch_photos, "GIT", [source for source in fetch_photos.GIT if source.name == "kodak"]
    )
    assert fetch_photos.main(["--out", str(tmp_path)]) == 1
    assert (
        "apt on this machine knows no Debian archive" in caplog.text and "Not fetched: budgie" in caplog.text
    )
    assert [path.name for path in tmp_path.rglob("*.png")] == ["a.png"]


def test_validation_folders_are_never_trained_on(photos, tmp_path):
    for name in ("kodak", "mine"):
        (tmp_path / name).mkdir()
        for path in photos.iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    assert {path.parent.name for path in PhotoPool([tmp_path]).paths} == {"mine"}


def test_the_whole_chain_gives_a_folder_that_the_core_loads(photos, tmp_path, monkeypatch):
    from osediff_core.generator import OneStepGenerator
    from training.recipes.tiny import prior, train

    monkeypatch.setattr(train, "TILES", 12)
    monkeypatch.setattr(prior, "VALIDATION_TILES", 2)
    few = StageOptions(steps=2, learning_rate=1e-4, warmup=1, ema_decay=0.5, log_every=1)
    exported = train.train([photos], None, None, tmp_path, train.Recipe(few, few, few))
    generator = OneStepGenerator.load(exported, dtype="fp32", device="cpu")
    assert generator.timestep == train.TIMESTEP
    lq = to_tensor(np.full((1, 20, 30, 3), 128, np.uint8))
    assert generator.restore(lq, "red").shape == lq.shape
