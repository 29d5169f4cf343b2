"""What the VAE's tiles keep while they work: in memory as much as allowed, the rest in one file."""

from __future__ import annotations

import itertools
import logging
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from tiled_vae_cases import decode, latents

from osediff_core.errors import OutOfDisk
from osediff_core.layers import Span
from osediff_core.runtime.memory import free_memory, release_memory
from osediff_core.tiles.vae.features import FeatureMap, FeatureStore
from osediff_core.tiles.vae.plan import Budget, attention_bytes, make_plan, most_features
from osediff_core.tiles.vae.spill import Spill, temporary_folder
from osediff_core.tiles.vae.walk import Walk

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


def test_features_beyond_the_budget_go_to_disk_and_leave_nothing(vae, tmp_path, caplog):
    z = latents(24, 16)
    exact = vae.module.decode(z).sample
    with caplog.at_level(logging.INFO):
        found = decode(vae, z, budget=150_000, folder=tmp_path)
    assert (found - exact).abs().max() <= 2e-5
    assert str(tmp_path) in caplog.text and not os.listdir(tmp_path)


def test_a_band_is_kept_where_there_is_room_and_room_comes_back():
    store = FeatureStore(torch.device("cpu"), 1000, 0, None)
    x = FeatureMap(1, 6, 50, torch.float32, store)
    bands = {}
    for top in (0, 2, 4):
        band = x.new_band(Span(top, top + 2))
        bands[top] = band.copy_(torch.randn(1, 1, 2, 50)).clone()
        x.put(Span(top, top + 2), band)
    assert store.bytes_on_disk == 400  # two bands of 400 bytes fit
    whole = torch.cat(list(bands.values()), dim=2)
    assert torch.equal(torch.cat(x.pieces(Span(1, 6), Span(3, 50)), dim=2), whole[:, :, 1:6, 3:])
    x.drop(4)
    assert store.bytes_on_disk == 400 and x.pieces(Span(0, 4), Span(0, 50)) == []
    x.drop(6)
    assert store.bytes_on_disk == 0 and store.most_on_disk == 400


def test_the_forecast_of_features_is_what_is_stored(vae):
    network, device = vae.decoder(24, 24), torch.device("cpu")
    plan = make_plan(network, 24, 24, Budget(60_000, 0), 4)
    forecast, store = most_features(plan, 4), FeatureStore(device, 0, 0, None)
    Walk(network, plan, store, lambda _: None).run(latents(24, 24), torch.empty(1, 3, 96, 96))
    assert forecast <= store.most_on_disk <= 1.15 * forecast and store.bytes_on_disk == 0


def test_a_full_disk_is_said_in_one_sentence(vae, tmp_path, monkeypatch):
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=10_000))
    with pytest.raises(OutOfDisk, match=r"GB of disk, but .* free; point TMPDIR"):
        decode(vae, latents(24, 24), budget=100_000, folder=tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_on_the_way_is_said_too(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "wb", buffering=0))
    with pytest.raises(OutOfDisk, match="is full"):
        decode(vae, latents(24, 24), budget=100_000, folder=tmp_path)
    monkeypatch.undo()
    with pytest.raises(OutOfDisk, match="cannot be written"):
        decode(vae, latents(24, 24), budget=100_000, folder=tmp_path / "missing" / "folder")


def test_a_room_knows_its_device_by_whatever_name_its_tensors_give():
    store = FeatureStore(torch.device("cpu:0"), 1000, 0, None)  # tensors there say "cpu"
    band = store.keep(torch.zeros(1, 1, 2, 50))
    band.free()
    assert store.keep(torch.zeros(1, 1, 5, 50)).load().shape == (1, 1, 5, 50) and store.bytes_on_disk == 0


def test_many_bands_need_few_open_files(vae):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    z = latents(64, 4)
    exact = vae.module.decode(z).sample
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 16, limits[1]))
        found = decode(vae, z, budget=12_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (found - exact).abs().max() <= 2e-5


def test_the_file_gives_back_what_was_written_and_uses_its_places_again(tmp_path):
    spill, kept, rng = Spill(tmp_path), {}, random.Random(0)
    for step in range(300):
        if kept and rng.random() < 0.5:
            place = rng.choice(list(kept))
            spill.give_back(place)
            del kept[place]
        else:
            tensor = torch.full((rng.randint(1, 9), 25), float(step)).to(
                rng.choice([torch.float32, torch.bfloat16])
            )
            kept[spill.write(tensor)] = tensor
        for place, tensor in kept.items():
            read = torch.empty_like(tensor)
            spill.read(place, read)
            assert torch.equal(read, tensor)
    places = sorted(kept)
    assert all(a.start + a.length <= b.start for a, b in itertools.pairwise(places))
    assert spill.size == places[-1].start + places[-1].length
    for place in places:
        spill.give_back(place)
    assert spill.size == 0 and spill.most < 300 * 500 and not os.listdir(tmp_path)


def test_keys_and_values_count_as_memory(vae):
    plan = make_plan(vae.decoder(24, 20), 24, 20, Budget(60_000, 0), 4)
    assert attention_bytes(plan, 4) == 2 * 24 * 20 * 16 * 4
    assert attention_bytes(plan, 2, pooled=7) == 2 * 4 * 3 * 16 * 4
    total, needed = 300_000, most_features(plan, 4)
    kept = Budget.of(total, "cpu").features
    assert attention_bytes(plan, 4) < kept < needed  # so that what goes to the file tells
    with tempfile.TemporaryDirectory() as folder:
        sizes = []
        real = Spill.write
        patch = pytest.MonkeyPatch()
        patch.setattr(Spill, "write", lambda self, t: (real(self, t), sizes.append(self.size))[0])
        decode(vae, latents(24, 20), budget=total, folder=Path(folder))
        patch.undo()
    assert max(sizes) > needed - kept + 0.8 * attention_bytes(plan, 4)


def test_features_spill_where_the_user_says_and_not_to_a_ram_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert temporary_folder() == tmp_path
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    mounts = "none / ext4 rw 0 0\nnone /tmp tmpfs rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self: mounts)
    assert temporary_folder() == Path("/var/tmp" if Path("/var/tmp").is_dir() else "/tmp")
    mounts = "none / ext4 rw 0 0\n"
    assert temporary_folder() == Path("/tmp")


def test_a_device_that_does_not_say_what_is_free_gets_little():
    unknown = torch.device("privateuseone")
    assert free_memory(unknown) == 2**30
    release_memory(unknown)
