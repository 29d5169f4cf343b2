"""Weights of every method as one file of ours: the same tensors, the same facts, the same restoration to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mini_models.methods import write_adcsr, write_lora_methods, write_s3diff
from mini_models.networks import MiniModel
from refusals import refused
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from osediff_core import OneStepGenerator, load_model
from osediff_core.backends.load_base import load_base
from osediff_core.cli.main import main
from osediff_core.errors import CheckpointError
from osediff_core.weights.checkpoint import read_weights, write_weights
from osediff_core.weights.describe import describe
from osediff_core.weights.identify import identify

CASES = {  # the official file, and what must be said of it
    "pisa_sr.pkl": (None, "pisa-sr"),
    "omgsr": (None, "omgsr-s"),
    "dump.pth": ("hypir", "hypir"),
    "s3diff.pkl": (None, "s3diff"),
    "net_params_200.pkl": (None, "adcsr"),
}


@pytest.fixture(scope="module")
def files(mini: MiniModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    base = load_base(mini.base, "fp32", "cpu")
    write_lora_methods(folder, base.unet.module, base.vae.module)
    write_s3diff(folder, base.unet.module, base.vae.module)
    write_adcsr(folder)
    return folder


@pytest.fixture
def export(files: Path, tmp_path: Path) -> Callable[..., Path]:
    """An official file's name -> ours of it, written by the command."""

    def run(name: str, *options: str) -> Path:
        path, method = tmp_path / f"{name}.safetensors", CASES[name][0]
        named = ["--method", method] if method else []
        assert main(["convert", str(files / name), str(path), *named, *options, "-q"]) == 0
        return path

    return run


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_ours_holds_all(name: str, files: Path, export: Callable[..., Path]) -> None:
    method, kind = CASES[name]
    before, path = read_weights(files / name, method), export(name)
    after = read_weights(path)  # which says itself what it is
    assert identify(path).kind == after.method == kind and identify(path).is_weights
    assert after.metadata == before.metadata
    assert [(s.name, s.rank, s.scale, list(s)) for s in (*after.unet_sets, after.vae_lora)] == [
        (s.name, s.rank, s.scale, list(s)) for s in (*before.unet_sets, before.vae_lora)
    ]
    first, second = before.tensors(), after.tensors()
    assert list(first) == list(second) or set(first) == set(second)
    assert all(
        torch.equal(first[one], second[one]) and first[one].dtype == second[one].dtype for one in first
    )
    assert describe(path)["method"] == describe(files / name, method)["method"]
    again = path.with_name("again.safetensors")
    write_weights(again, after)
    assert again.read_bytes() == path.read_bytes()
    half = export(name, "--dtype", "fp16")
    assert {str(t.dtype) for t in read_weights(half).tensors().values()} == {"torch.float16"}


@pytest.mark.parametrize("name", [name for name, (_, kind) in CASES.items() if kind != "adcsr"])
def test_it_restores_as_the_official_file(
    name: str, files: Path, export: Callable[..., Path], mini: MiniModel
) -> None:
    """Also alone: S3Diff's second file is in it."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    found = [
        OneStepGenerator.load(mini.base, path, dtype="fp32", device="cpu", method=method).restore(image, "")
        for path, method in ((files / name, CASES[name][0]), (export(name), None))
    ]
    assert torch.equal(*found)


def test_a_network_restores_as_the_official_file(files: Path, export: Callable[..., Path]) -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    found = [
        load_model(weights=path, decoder=files / "halfDecoder.ckpt", dtype="fp32", device="cpu")(image)
        for path in (files / "net_params_200.pkl", export("net_params_200.pkl"))
    ]
    assert torch.equal(*found)


def test_back_to_pisas_own_file(files: Path, export: Callable[..., Path], tmp_path: Path) -> None:
    assert main(["convert", str(export("pisa_sr.pkl")), str(tmp_path / "back.pkl"), "-q"]) == 0
    before, after = (
        torch.load(path, weights_only=True) for path in (files / "pisa_sr.pkl", tmp_path / "back.pkl")
    )
    assert before.keys() == after.keys()
    for key, value in before.items():
        if key == "state_dict_unet":
            assert value.keys() == after[key].keys() and all(
                torch.equal(t, after[key][n]) for n, t in value.items()
            )
        else:
            assert after[key] == value, key
    with refused(CheckpointError, "name it .safetensors for weights of HYPIR"):
        write_weights(tmp_path / "hypir.pkl", read_weights(files / "dump.pth", "hypir"))


def test_what_was_changed_is_refused(export: Callable[..., Path], mini: MiniModel, tmp_path: Path) -> None:
    path = export("omgsr")
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()

    def changed(**other: str) -> Path:
        save_file(tensors, tmp_path / "changed.safetensors", {**metadata, **other})
        return tmp_path / "changed.safetensors"

    sets = json.loads(metadata["sets"])
    with refused(CheckpointError, "version 2", "update it"):
        read_weights(changed(version="2"))
    with refused(CheckpointError, "weights of the one-step method 'newer'", "update this program"):
        read_weights(changed(method="newer"))
    for wrong in (
        "",
        "{}",
        "[1]",
        json.dumps([{**sets[0], "part": "text"}]),
        json.dumps([{**sets[0], "rank": "x"}]),
    ):
        with refused(CheckpointError, "does not say which LoRA sets"):
            read_weights(changed(sets=wrong))
    for wrong in ([sets[0], sets[0]], [{**sets[0], "scale": float("inf")}], [{**sets[0], "rank": 0}]):
        with refused(CheckpointError, "contradicts itself"):
            read_weights(changed(sets=json.dumps(wrong)))
    with refused(CheckpointError, "tensors have rank 4"):
        read_weights(changed(sets=json.dumps([{**sets[0], "rank": 3}])))
    tensors.pop(f"unet.{sets[0]['modules'][0]}.lora_A.weight")
    with refused(CheckpointError, "does not fit this base", "1 missing"):
        OneStepGenerator.load(mini.base, changed())
