"""The embedded model's training: the start, the data, the loop that survives interruption, the whole chain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

pytest.importorskip("efficientnet_lite_pytorch", reason="the train extra is not installed")

from osediff_core.backends.find_base import PACKAGED
from osediff_core.backends.load_base import load_base
from osediff_core.errors import CheckpointError
from osediff_core.evaluate.perceptual import FeatureDistance
from osediff_core.evaluate.psnr_ssim import psnr, psnr_y
from osediff_core.generator import OneStepGenerator
from osediff_core.layers import Attention
from training.data.appearance import appearance_tags
from training.data.captions import find_tagger
from training.data.pictures import to_tensor
from training.recipes.tiny import distil, fetch_photos, grow, pairs, pixels, prior, teacher, train
from training.recipes.tiny.architecture import UNET_CONFIG, build_unet, build_vae
from training.recipes.tiny.degrade import INTERNET, degrade, enlarge
from training.recipes.tiny.export import export_base
from training.recipes.tiny.linear_start import linear_start
from training.recipes.tiny.loop import Stage, StageOptions
from training.recipes.tiny.photos import PhotoPool
from training.recipes.tiny.tiles import cut, soften

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


def _rrdbnet() -> dict[str, torch.Tensor]:
    """Random weights of Real-ESRGAN x4plus, in the order it calls them, in half precision."""
    widths = {
        f"body.{block}.rdb{dense}.conv{conv}": (64 + 32 * (conv - 1), 64 if conv == 5 else 32)
        for block in range(23)
        for dense in (1, 2, 3)
        for conv in range(1, 6)
    }
    last = dict.fromkeys(("conv_body", "conv_up1", "conv_up2", "conv_hr"), (64, 64))
    widths = {"conv_first": (3, 64), **widths, **last, "conv_last": (64, 3)}
    generator, state = torch.Generator().manual_seed(0), {}
    for name, (inputs, outputs) in widths.items():
        state[f"{name}.weight"] = (
            (0.01 * torch.randn(outputs, inputs, 3, 3, generator=generator)).half().float()
        )
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator)
    return state


def _ncnn_of(state: dict[str, torch.Tensor]) -> tuple[str, bytes]:
    """ncnn's two files of convolutions, as its converter lays them out."""
    lines, data = ["7767517", "999 1782", "Input input.1 0 1 data"], []
    for number, name in enumerate(name.removesuffix(".weight") for name in state if name.endswith(".weight")):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        size = f"0={len(weight)} 1=3 4=1 5=1 6={weight.numel()} -23310=1,2.000000e-01"
        lines.append(f"Convolution Conv_{number} 1 1 in{number} out{number} {size}")
        half = weight.half().numpy().tobytes()
        data += [bytes.fromhex("476b3001"), half, bytes(-len(half) % 4), bias.numpy().tobytes()]
    return "\n".join(lines), b"".join(data)


def test_the_teacher_is_read_from_ncnn_s_files(tmp_path):
    state = _rrdbnet()
    param, data = _ncnn_of(state)
    found = teacher.read_ncnn(param, data)
    assert list(found) == list(state) and all(torch.equal(found[name], state[name]) for name in state)
    save_file(found, tmp_path / teacher.FILE)
    network = teacher.load(teacher.fetch(tmp_path))  # what is there is not fetched again
    assert network.scale == 4 and network(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    with pytest.raises(CheckpointError, match="more in the file"):
        teacher.read_ncnn(param, data + b"1")
    with pytest.raises(CheckpointError, match="half precision"):
        teacher.read_ncnn(param, bytes(4) + data[4:])
    with pytest.raises(CheckpointError, match="350 convolutions"):
        teacher.read_ncnn(param.rpartition("\n")[0], data)


def test_pairs_repeat_with_their_number_and_belong_together(photos):
    pool, enlarge4 = PhotoPool([photos], pairs.SIDE), nn.Upsample(scale_factor=4, mode="nearest")
    first, again, other = (pairs.make_shard(number, pool, enlarge4, count=2) for number in (0, 0, 1))
    assert first["lq"].shape == (2, 3, 80, 80) and first["hq"].shape == first["teacher"].shape == (
        2,
        3,
        320,
        320,
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lq"], other["lq"])
    assert torch.equal(first["teacher"][..., ::4, ::4], first["lq"])
    small = nn.functional.avg_pool2d(first["hq"].float(), 4)
    assert (small - first["lq"]).abs().mean() < 12  # of 255 levels: the same picture, degraded


def test_turned_windows_stay_aligned():
    lq = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8)
    for variant in range(8):
        big = distil.turned(lq.repeat_interleave(4, -1).repeat_interleave(4, -2), variant)
        assert torch.equal(big[..., ::4, ::4], distil.turned(lq, variant))
    assert len({distil.turned(lq, variant).numpy().tobytes() for variant in range(8)}) == 8


def test_a_restorer_grows_out_of_one_of_the_first_shape(photos, tmp_path, monkeypatch):
    from diffusers import UNet2DConditionModel

    monkeypatch.setattr(pairs, "SIDE", 160)
    torch.manual_seed(0)
    first = {
        **UNET_CONFIG,
        "block_out_channels": [64, 128],
        "layers_per_block": 1,
        "attention_head_dim": [1, 2],
    }
    for side in ("down", "up"):
        kinds = UNET_CONFIG[f"{side}_block_types"]
        first[f"{side}_block_types"] = [kinds[0], kinds[-1]]
    before, vae = UNet2DConditionModel(**first), build_vae().eval()
    text, tokenizer = load_base("tiny", "fp32", "cpu").text, PACKAGED["tiny"] / "tokenizer"
    export_base(vae, before, text.module, tokenizer, tmp_path / "old")
    (tmp_path / "pairs").mkdir()
    shard = pairs.make_shard(0, PhotoPool([photos], pairs.SIDE), nn.Upsample(scale_factor=4), count=2)
    save_file(shard, tmp_path / "pairs" / "0000.safetensors")
    distil.cache(vae, find_tagger("appearance"), tmp_path / "pairs", tmp_path / "latents")
    latents = distil.read_latents(tmp_path / "latents")
    restorer, prompts = distil.Restorer(build_unet()), distil.Prompts(text, latents.prompts)
    losses = distil.LatentLoss(restorer, prompts, latents)
    untrained = losses.validate()["val_l1"]

    monkeypatch.setattr(grow, "HELD_OUT", 0)
    base = load_base(tmp_path / "old", "fp32", "cpu")
    old = OneStepGenerator(base.vae, base.unet, base.text, base.schedule)
    grow.grow(restorer, prompts, latents, pairs.read(tmp_path / "pairs"), old)
    z = latents.lq[:1].float()
    assert torch.allclose(
        restorer.unet.conv_in(z), before.conv_in(z), atol=0.05
    )  # the latents are the same here
    assert torch.equal(
        restorer.unet.up_blocks[2].resnets[4].conv1.weight, before.up_blocks[1].resnets[1].conv1.weight
    )
    assert losses.validate()["val_l1"] < untrained


def test_the_whole_chain_gives_a_folder_that_the_core_loads(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "SIDE", 160)
    monkeypatch.setattr(distil, "LARGER", 0)  # windows that such small pairs have no room for
    pool, enlarge4 = PhotoPool([photos], pairs.SIDE), nn.Upsample(scale_factor=4, mode="nearest")
    (tmp_path / "pairs").mkdir()
    save_file(pairs.make_shard(0, pool, enlarge4, count=4), tmp_path / "pairs" / "0000.safetensors")
    for module in (distil, pixels, prior):
        monkeypatch.setattr(module, "HELD_OUT", 1)
    few = StageOptions(steps=2, learning_rate=1e-3, warmup=1, log_every=1)
    slow = replace(few, learning_rate=1e-5)
    exported = train.train(
        [photos],
        tmp_path / "pairs",
        None,
        None,
        tmp_path,
        train.Recipe(slow, few, replace(few, muon=True), few),
    )
    generator = OneStepGenerator.load(exported, dtype="fp32", device="cpu")
    assert generator.timestep == distil.TIMESTEP
    lq = to_tensor(np.random.default_rng(0).integers(0, 256, (1, 32, 40, 3), np.uint8))
    restored = generator.restore(lq, "red")
    assert restored.shape == lq.shape

    network = generator.vae.encoder(64, 64)
    assert all(
        layer.idle() for layer in network.layers if isinstance(layer, Attention)
    )  # so cost grows with the area

    # base and weights together are the restorer, as it was before the base was made of it
    saved = torch.load(tmp_path / "pixels.pt", weights_only=True)["modules"]
    unet = build_unet()
    unet.load_state_dict(saved["unet"])
    parts = generator.vae, type(generator.unet)(unet), generator.text, generator.schedule
    exact = OneStepGenerator(*parts, distil.TIMESTEP)
    assert (exact.restore(lq, "red") - restored).abs().max() < 2 / 255
    generator.set_strength(0, 0)
    assert (generator.restore(lq, "red") - restored).abs().mean() > 1 / 255
