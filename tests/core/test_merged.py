"""A base with weights merged into it: the same picture as from base and weights, without the work of merging."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from mini_models.networks import MiniModel
from refusals import refused
from torch import Tensor

from osediff_core import OneStepGenerator
from osediff_core.backends.find_base import find_base
from osediff_core.cli.main import main
from osediff_core.errors import CheckpointError, OptionError
from osediff_core.merged import write_merged


def picture(generator: OneStepGenerator, prompt: str = "a wall") -> Tensor:
    return generator.restore(
        torch.rand(1, 3, 48, 40, generator=torch.Generator().manual_seed(7)) * 2 - 1, prompt
    )


@pytest.fixture(scope="module")
def merged(mini: MiniModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged") / "restorer"
    write_merged(folder, find_base(mini.base), mini.weights, dtype=torch.bfloat16)
    return folder


def same_weights(one: OneStepGenerator, other: OneStepGenerator) -> bool:
    """To the bit; what is computed with them may round otherwise, as mapped tensors lie otherwise in memory."""
    pairs = [
        (a, b)
        for part in ("unet", "vae", "text")
        for a, b in zip(
            getattr(one, part).module.parameters(), getattr(other, part).module.parameters(), strict=True
        )
    ]
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).square().mean().sqrt()) < 2e-3


def test_the_command_writes_a_base_of_the_same_weights(mini: MiniModel, tmp_path: Path) -> None:
    folder = tmp_path / "restorer"
    command = ["convert", str(mini.weights), str(folder), "--merge", str(mini.base), "--dtype", "fp32"]
    assert main(command) == 0
    before = OneStepGenerator.load(mini.base, mini.weights, dtype="fp32", device="cpu")
    after = OneStepGenerator.load(folder, dtype="fp32", device="cpu")
    assert same_weights(before, after) and close(picture(after), picture(before))


def test_half_precision_is_rounded_once_and_known_prompts_need_no_encoder(
    mini: MiniModel, merged: Path
) -> None:
    before = OneStepGenerator.load(mini.base, mini.weights, dtype="bf16", device="cpu")
    after = OneStepGenerator.load(merged, dtype="bf16", device="cpu")
    assert torch.equal(picture(after, ""), picture(before, ""))
    assert (
        next(after.text._module.parameters()).untyped_storage().nbytes() > 2**20
    )  # of the whole mapped file
    shutil.move(merged / "text_encoder", merged / "elsewhere")
    assert torch.equal(picture(after, "a wall"), picture(before, "a wall"))  # mapped, whatever its name
    shutil.move(merged / "elsewhere", merged / "text_encoder")


def test_what_is_merged_for_good_is_neither_weakened_nor_merged_again(mini: MiniModel, merged: Path) -> None:
    with refused(OptionError, "for good, at the strength 1, 1"):
        OneStepGenerator.load(merged, strength=0.5)
    with refused(CheckpointError, "merged into it already"):
        OneStepGenerator.load(merged, mini.weights)
    generator = OneStepGenerator.load(merged, device="cpu")
    with refused(OptionError, "fixed at 1"):
        generator.set_strength(unet=0.5)
    with refused(OptionError, "is there already"):
        write_merged(merged, find_base(mini.base), mini.weights, dtype=torch.float32)


def test_a_cache_goes_by_content_and_keeps_prompts(mini: MiniModel, tmp_path: Path) -> None:
    weights, cache = tmp_path / "mine.pkl", tmp_path / "cache"
    shutil.copyfile(mini.weights, weights)

    def load(**options: object) -> OneStepGenerator:
        given = {"dtype": "bf16", "device": "cpu", "cache": cache} | options
        return OneStepGenerator.load(mini.base, weights, **given)

    def folders() -> set[str]:
        return {path.name for path in cache.iterdir() if path.is_dir()}

    plain = OneStepGenerator.load(mini.base, weights, dtype="bf16", device="cpu")
    first = load()
    assert same_weights(first, plain) and len(folders()) == 1
    expected = first.encode_prompt(["a wall", ""])
    again = load()
    again.text._embed = None  # nothing is embedded a second time
    assert torch.equal(again.encode_prompt(["a wall", ""]), expected) and len(folders()) == 1
    load(strength=0.5), load(dtype="fp32")
    assert len(folders()) == 3
    shutil.move(weights, tmp_path / "renamed.pkl")
    weights = tmp_path / "renamed.pkl"
    load()
    assert len(folders()) == 3  # the same content
