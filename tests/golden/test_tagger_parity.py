"""The numbers of the official tagger at full size: the same weights and picture must give the same results in fp32."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from osediff_core.dape import Tagger, preprocess, read_tagger
from training.dape.step import distances


@pytest.fixture(scope="module")
def golden(reference_dir: Path) -> dict[str, Tensor]:
    with np.load(reference_dir / "golden" / "ram_golden.npz") as data:
        return {k: torch.from_numpy(data[k]) for k in data.files if data[k].dtype.kind != "U"} | {
            k: str(data[k]) for k in data.files if data[k].dtype.kind == "U"
        }


@pytest.fixture(scope="module")
def official_files(
    reference_dir: Path,
    import_reference: Callable[[str], ModuleType],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, Path]]:
    """Stand-ins for both official files, of 0.86 GB, without the tensors that tagging never reads."""
    maker = import_reference("make_ram_weights")
    keys = json.loads((reference_dir / "golden" / "ram_keys.json").read_text())
    folder = tmp_path_factory.mktemp("ram")
    torch.save({"model": maker.ram_state(keys, used_only=True), "epoch": 0}, folder / "ram.pth")
    torch.save({name: maker.tensor(name, shape) for name, shape in keys["dape"]}, folder / "DAPE.pth")
    yield folder / "ram.pth", folder / "DAPE.pth"
    for path in folder.iterdir():
        path.unlink()  # pytest keeps the folders of its last runs


def picture(golden: dict[str, Tensor], key: str) -> Tensor:
    return golden[key].permute(2, 0, 1)[None].float() / 255 * 2 - 1


@pytest.mark.slow
def test_ram_and_dape_at_full_size(golden: dict[str, Tensor], official_files: tuple[Path, Path]) -> None:
    ram, dape = official_files
    image = picture(golden, "image")
    pixels = preprocess(image, 384)
    seen = {}
    for name, lora in (("ram", False), ("dape", dape)):
        tagger = Tagger(read_tagger(ram, lora).network())
        with torch.inference_mode():
            embeds = tagger.module.embed(pixels)
            logits = tagger.module.classify(embeds)
        assert (embeds[0, :8, :64] - golden[f"{name}_embeds"]).abs().max() < 1e-4
        assert torch.allclose(
            torch.stack([embeds.mean(), embeds.std()]), golden[f"{name}_embeds_mean_std"], atol=1e-4
        )
        assert (logits[0] - golden[f"{name}_logits"]).abs().max() < 1e-4
        limits = torch.tensor(tagger.table.thresholds)
        assert torch.equal(limits, golden["class_threshold"].float())
        (tags,) = tagger.table.above(logits.sigmoid())
        assert [index for index, _ in tags] == golden[f"{name}_tag_index"].tolist()
        seen[name] = embeds, logits
    # what DAPE's training compares (SeeSR, dape_model.py)
    losses = distances(seen["dape"], seen["ram"])
    assert losses["features"].item() == pytest.approx(golden["loss_fea"].item(), rel=1e-4)
    assert losses["logits"].item() == pytest.approx(golden["loss_logits"].item(), rel=1e-4)


def test_loss_on_logits(golden: dict[str, Tensor]) -> None:
    embeds = torch.zeros(1, 145, 512)
    student, teacher = ((embeds, golden[f"{name}_logits"][None]) for name in ("dape", "ram"))
    found = distances(student, teacher)
    assert found["logits"].item() == pytest.approx(golden["loss_logits"].item(), rel=1e-5)
    assert distances(teacher, student)["logits"].item() != pytest.approx(
        golden["loss_logits"].item(), rel=1e-3
    )


@pytest.mark.parametrize(("antialias", "key"), [(False, "pre_noaa"), (True, "pre_aa")])
def test_preprocessing(golden: dict[str, Tensor], antialias: bool, key: str) -> None:
    pixels = preprocess(picture(golden, "pre_image"), 384, antialias)[0]
    assert (pixels[:, 40:56, 184:200] - golden[key]).abs().max() < 1e-5
    assert torch.allclose(pixels.mean(dim=(1, 2)), golden[f"{key}_mean"], atol=1e-5)
    other = golden["pre_aa" if key == "pre_noaa" else "pre_noaa"]
    assert (pixels[:, 40:56, 184:200] - other).abs().max() > 0.1
