"""The official tile grid and weights against a literal transcription of the official loops."""

from __future__ import annotations

import itertools
import logging
import math
import random

import pytest
import torch
from torch import Tensor

from osediff_core.errors import OptionError, OutOfMemory
from osediff_core.tiles.grid import (
    Tile,
    balanced_grid,
    gaussian_weights,
    make_grid,
    needs_tiles,
    official_grid,
)
from osediff_core.tiles.unet import UNetTiling, predict, predict_tiled


def grid_of_the_official_loops(h: int, w: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """(y, x) of the tiles as osediff.py finds them: `row` walks over x, `col` over y."""
    tile = min(tile, min(h, w))

    def count(length: int) -> int:
        n = reached = 0
        while reached < length:
            reached = max(n * tile - overlap * n, 0) + tile
            n += 1
        return n

    rows, cols, found = count(w), count(h), []
    for row in range(rows):
        for col in range(cols):
            x = max(row * tile - overlap * row, 0) if row < rows - 1 else w - tile
            y = max(col * tile - overlap * col, 0) if col < cols - 1 else h - tile
            found.append((y, x))
    return found


def test_the_grid_is_the_official_one() -> None:
    rng = random.Random(0)
    for _ in range(500):
        h, w, tile = rng.randint(1, 150), rng.randint(1, 150), rng.randint(1, 100)
        overlap = rng.randint(0, min(h, w, tile) - 1)
        tiles = official_grid(h, w, tile, overlap)
        assert [(t.y, t.x) for t in tiles] == grid_of_the_official_loops(h, w, tile, overlap)
        assert {(t.height, t.width) for t in tiles} == {(min(h, w, tile),) * 2}


@pytest.mark.parametrize(("h", "w"), [(32, 300), (300, 32), (20, 640), (1, 10000), (10000, 3)])
def test_where_the_official_loops_never_end_tiles_take_the_short_side_whole(h: int, w: int) -> None:
    tiles = official_grid(h, w, 96, 32)
    assert {(t.height, t.width) for t in tiles} == {(min(h, 96), min(w, 96))}
    assert len(tiles) == math.ceil((max(h, w) - 96) / 64) + 1
    assert all_covered(h, w, tiles)


def test_every_latent_is_covered_and_no_tile_sticks_out() -> None:
    rng = random.Random(1)
    for _ in range(300):
        h, w, tile = rng.randint(1, 90), rng.randint(1, 90), rng.randint(1, 40)
        assert all_covered(h, w, official_grid(h, w, tile, rng.randint(0, tile - 1)))


def test_the_balanced_grid_covers_everything_with_no_more_work_than_the_official_one() -> None:
    rng = random.Random(2)
    for _ in range(150):
        h, w, tile = rng.randint(1, 300), rng.randint(1, 300), rng.randint(1, 100)
        overlap = rng.randint(0, tile - 1)
        tiles, official = balanced_grid(h, w, tile, overlap), official_grid(h, w, tile, overlap)
        assert all_covered(h, w, tiles)
        assert len({(t.height, t.width) for t in tiles}) == 1 and len(set(tiles)) == len(tiles)
        assert max(tiles[0].height, tiles[0].width) <= tile
        if min(h, w) >= tile:  # where it is not, the official tiles are smaller squares
            assert len(tiles) <= len(official)
            assert work(tiles) <= work(official)
        for axis, side in ((0, tiles[0].height), (1, tiles[0].width)):
            starts = sorted({t[axis] for t in tiles})
            assert all(b - a <= side - overlap for a, b in itertools.pairwise(starts))


def work(tiles: list[Tile]) -> int:
    return sum(t.height * t.width for t in tiles)


def test_what_the_balanced_grid_saves_at_1024_pixels() -> None:
    assert work(official_grid(128, 128, 96, 32)) / 128**2 == 2.25
    tiles = balanced_grid(128, 128, 96, 32)
    assert work(tiles) / 128**2 == 1.5625 and tiles[0][2:] == (80, 80)
    assert {t.x for t in tiles} == {0, 48}


def all_covered(h: int, w: int, tiles: list[Tile]) -> bool:
    seen = torch.zeros(h, w, dtype=torch.bool)
    for tile in tiles:
        assert tile.y >= 0 and tile.x >= 0 and tile.y + tile.height <= h and tile.x + tile.width <= w
        seen[tile.window] = True
    return bool(seen.all())


def test_the_weights_are_the_official_ones_with_their_half_pixel_shift() -> None:
    def official(x: float, midpoint: float, n: int) -> float:
        variance = 0.01
        return math.exp(-(x - midpoint) * (x - midpoint) / (n * n) / (2 * variance)) / math.sqrt(
            2 * math.pi * variance
        )

    n = 16
    expected = torch.tensor(
        [[official(y, n / 2, n) * official(x, (n - 1) / 2, n) for x in range(n)] for y in range(n)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(gaussian_weights(n, n), expected, rtol=1e-13, atol=0)
    assert gaussian_weights(5, 9).shape == (5, 9)


def test_areas_decide_whether_tiles_are_needed() -> None:
    assert not needs_tiles(96, 96, 96)
    assert not needs_tiles(48, 192, 96)
    assert needs_tiles(96, 97, 96)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (-3, 0), (16, 16), (16, 40), (16, -1)])
def test_impossible_tiles_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(OptionError):
        official_grid(64, 64, tile, overlap)


def test_an_unknown_grid_is_refused_by_name() -> None:
    with pytest.raises(OptionError, match="hexagonal"):
        make_grid("hexagonal", 64, 64, 16, 8)


class LocalNet:
    """A stand-in that treats each latent by itself, so that tiles must not change its result."""

    dtype = torch.float32
    bytes_per_latent = None
    device = None

    def __init__(self) -> None:
        self.batches: list[int] = []

    def requires_grad(self) -> bool:
        return False

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        self.batches.append(latents.shape[0])
        return latents * timesteps.view(-1, 1, 1, 1) + prompt_embeds.mean(dim=(1, 2)).view(-1, 1, 1, 1)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_blended_tiles_keep_images_prompts_and_places_apart(batch: int) -> None:
    net = LocalNet()
    latents, t = torch.randn(2, 8, 30, 41), torch.tensor([3, 7])
    embeds = torch.tensor([1.0, -2.0]).view(2, 1, 1).expand(2, 77, 4)
    tiles = official_grid(30, 41, 16, 6)
    steps: list[tuple[int, int]] = []
    blended = predict_tiled(net, latents, t, embeds, tiles, batch, lambda *step: steps.append(step))
    torch.testing.assert_close(blended, LocalNet()(latents, t, embeds), rtol=1e-5, atol=1e-5)
    assert max(net.batches) == 2 * min(batch, len(tiles))
    assert steps[-1] == (len(tiles), len(tiles)) and len(steps) == math.ceil(len(tiles) / batch)


def test_gradients_pass_through_tiles() -> None:
    latents = torch.randn(1, 4, 12, 20, requires_grad=True)
    tiles = official_grid(12, 20, 8, 4)
    predict_tiled(LocalNet(), latents, torch.tensor([2]), torch.zeros(1, 77, 4), tiles).sum().backward()
    torch.testing.assert_close(latents.grad, torch.full_like(latents, 2.0))


# --- memory ---


class ShortOfMemory(LocalNet):
    """Fails for more than `most` latents at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.sizes = most, []

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        self.sizes.append((latents.shape[0], *latents.shape[-2:]))
        if latents[:, 0].numel() > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().__call__(latents, timesteps, prompt_embeds)


@pytest.mark.parametrize("grid", ["official", "balanced"])
def test_where_memory_ends_smaller_tiles_are_tried(grid: str, caplog: pytest.LogCaptureFixture) -> None:
    latents, t, embeds = torch.randn(1, 4, 150, 200), torch.tensor([3]), torch.zeros(1, 77, 4)
    net = ShortOfMemory(3000)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        found = predict(net, latents, t, embeds, UNetTiling(96, 32, grid, 4))
    torch.testing.assert_close(found, latents * 3, rtol=1e-5, atol=1e-5)
    assert net.sizes[0][0] == 4 and net.sizes[1][0] == 1, "first fewer tiles at once, then smaller ones"
    assert max(net.sizes[-1][1:]) < 96 and "trying again" in caplog.text


def test_a_whole_area_that_does_not_fit_is_tiled_only_if_tiles_are_allowed() -> None:
    latents, t, embeds = torch.randn(1, 4, 90, 90), torch.tensor([3]), torch.zeros(1, 77, 4)
    with torch.no_grad():
        net = ShortOfMemory(5000)
        assert predict(net, latents, t, embeds, UNetTiling(96)).shape == latents.shape
        assert net.sizes[0] == (1, 90, 90) and net.sizes[-1][1] < 90
        with pytest.raises(OutOfMemory, match="denoise stage ran out of memory; use"):
            predict(ShortOfMemory(5000), latents, t, embeds, UNetTiling(None))


def test_below_the_floor_it_says_what_would_help() -> None:
    with torch.no_grad(), pytest.raises(OutOfMemory, match="close other programs"):
        predict(
            ShortOfMemory(10),
            torch.randn(1, 4, 90, 90),
            torch.tensor([3]),
            torch.zeros(1, 77, 4),
            UNetTiling(96),
        )


@pytest.mark.parametrize("grid", ["official", "balanced"])
@pytest.mark.parametrize("size", [(60, 140), (140, 60), (20, 400), (1, 5000), (90, 90), (300, 500)])
@pytest.mark.parametrize(("tile", "overlap"), [(96, 32), (96, None), (37, 5), (500, 32)])
def test_every_next_try_is_at_most_half_as_large_until_it_says_what_would_help(
    grid: str, size: tuple[int, int], tile: int, overlap: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, t, embeds = torch.zeros(1, 4, *size), torch.tensor([3]), torch.zeros(1, 77, 4)
    net = ShortOfMemory(0)
    with pytest.raises(OutOfMemory, match="close other programs"):
        predict(net, latents, t, embeds, UNetTiling(tile, overlap, grid, 1))
    areas = [height * width for _, height, width in net.sizes]
    assert all(after <= before / 2 for before, after in itertools.pairwise(areas))
    assert areas[-1] < 4 * 32**2 and len(areas) < 9

    net.bytes_per_latent, net.sizes = 1000, []
    monkeypatch.setattr("osediff_core.tiles.unet.free_memory", lambda _: 0)
    with pytest.raises(OutOfMemory):
        predict(net, latents, t, embeds, UNetTiling(tile, overlap, grid, 1))
    assert [height * width for _, height, width in net.sizes] == areas[-1:], "the smallest at once"


def test_only_gradients_that_are_needed_keep_the_tiles_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    latents, t, embeds = torch.randn(1, 4, 90, 90), torch.tensor([3]), torch.zeros(1, 77, 4)
    assert torch.is_grad_enabled()
    assert predict(ShortOfMemory(5000), latents, t, embeds, UNetTiling(96)).shape == latents.shape
    trained = ShortOfMemory(5000)
    trained.requires_grad = lambda: True
    for net, z, prompt in (
        (trained, latents, embeds),
        (ShortOfMemory(5000), latents.clone().requires_grad_(), embeds),
        (ShortOfMemory(5000), latents, embeds.clone().requires_grad_()),
    ):
        net.bytes_per_latent = 1000
        monkeypatch.setattr("osediff_core.tiles.unet.free_memory", lambda _: 1)
        with pytest.raises(OutOfMemory, match="denoise stage ran out of memory; use"):
            predict(net, z, t, prompt, UNetTiling(96))
        assert net.sizes == [(1, 90, 90)]


def test_a_network_s_own_device_counts_not_that_of_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(LocalNet):
        device, bytes_per_latent = torch.device("meta"), 1000

        def __call__(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
            return super().__call__(*(x.to(self.device) for x in (latents, timesteps, prompt_embeds)))

    latents, t, embeds = torch.randn(1, 4, 40, 60), torch.tensor([3]), torch.zeros(1, 77, 4)
    asked: list[torch.device] = []
    monkeypatch.setattr("osediff_core.tiles.unet.free_memory", lambda device: asked.append(device) or 10**9)
    for tile, at_once in ((16, 4), (96, 1)):
        net = Elsewhere()
        found = predict(net, latents, t, embeds, UNetTiling(tile))
        assert found.shape == latents.shape and found.device == net.device
        assert max(net.batches) == at_once, "no CPU takes several tiles at once"
    assert set(asked) == {net.device}


def test_tiles_are_chosen_by_free_memory_beforehand(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    latents, t, embeds = torch.randn(1, 4, 150, 200), torch.tensor([3]), torch.zeros(1, 77, 4)
    for free, side in ((10**9, 96), (5_000_000, 64), (1, 40)):
        net = ShortOfMemory(10**9)
        net.bytes_per_latent = 1000
        monkeypatch.setattr("osediff_core.tiles.unet.free_memory", lambda _, free=free: free)
        caplog.clear()
        with torch.no_grad():
            predict(net, latents, t, embeds, UNetTiling(96, None, "balanced"))
        assert max(max(size[1:]) for size in net.sizes) <= side, free
        assert ("memory is short" in caplog.text) == (side < 96)
