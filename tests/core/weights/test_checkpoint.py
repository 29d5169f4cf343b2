from __future__ import annotations

import os
import pickle
import stat
import sys
from pathlib import Path

import pytest
import refusals
import safetensors.torch
import torch
from mini_models.checkpoints import official_content
from mini_models.networks import tiny_unet, tiny_vae
from safetensors import safe_open

from osediff_core.errors import CheckpointError, OptionError
from osediff_core.weights.checkpoint import read_weights, write_weights


@pytest.fixture(scope="module")
def models() -> tuple[torch.nn.Module, torch.nn.Module]:
    return tiny_unet(), tiny_vae()


@pytest.fixture
def content(models) -> dict:
    return official_content(*models)


@pytest.fixture
def pkl(tmp_path, content) -> Path:
    torch.save(content, tmp_path / "osediff.pkl")
    return tmp_path / "osediff.pkl"


@pytest.fixture
def ours(tmp_path, pkl) -> Path:
    write_weights(tmp_path / "osediff.safetensors", read_weights(pkl))
    return tmp_path / "osediff.safetensors"


def refused(path: Path, *words: str) -> None:
    """Reading `path` fails with one sentence that names it."""
    with refusals.refused(CheckpointError, path, *words):
        read_weights(path)


def assert_same_official(one: dict, two: dict) -> None:
    assert list(one) == list(two)
    for key, value in one.items():
        if not key.startswith("state_dict"):
            assert value == two[key]
            continue
        assert list(value) == list(two[key])
        for name, tensor in value.items():
            assert tensor.dtype == two[key][name].dtype
            assert torch.equal(tensor, two[key][name]), name


# --- the official file ---


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_reads_the_official_file(tmp_path, content, zipped):
    path = tmp_path / "any.name"  # the suffix does not matter
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    weights = read_weights(path)
    state = content["state_dict_unet"]
    assert len(weights.unet_lora) == sum(
        len(content[f"unet_lora_{g}_modules"]) for g in ("encoder", "decoder", "others")
    )
    assert torch.equal(weights.unet_lora["conv_out"].B, state["conv_out.lora_B.default_decoder.weight"])
    assert torch.equal(weights.conv_in["bias"], state["conv_in.base_layer.bias"])
    assert weights.vae_modules == content["vae_lora_encoder_modules"]
    assert (weights.rank_unet, weights.rank_vae, weights.timestep, weights.prediction_type) == (
        4,
        4,
        999,
        "epsilon",
    )
    assert weights.missing == weights.unexpected == []
    assert weights.metadata["base"] == "unknown"


def test_conv_in_may_be_stored_without_an_adapter_around_it(tmp_path, content):
    state = content["state_dict_unet"]
    for name in ("weight", "bias"):
        state[f"conv_in.{name}"] = state.pop(f"conv_in.base_layer.{name}")
    torch.save(content, tmp_path / "w.pkl")
    weights = read_weights(tmp_path / "w.pkl")
    assert torch.equal(weights.conv_in["weight"], state["conv_in.weight"])
    assert weights.missing == weights.unexpected == []


def test_contradictions_are_kept_for_the_report_and_never_written(tmp_path, content):
    del content["state_dict_unet"]["conv_in.base_layer.bias"]
    content["state_dict_vae"]["odd.lora_A.default_encoder.weight"] = torch.ones(4, 4)
    torch.save(content, tmp_path / "w.pkl")
    weights = read_weights(tmp_path / "w.pkl")
    assert weights.missing == ["unet conv_in.base_layer.bias"]
    assert weights.unexpected == ["vae odd.lora_A.default_encoder.weight"]
    with pytest.raises(
        CheckpointError, match=r"1 missing: unet conv_in.base_layer.bias; 1 unexpected: vae odd"
    ):
        write_weights(tmp_path / "w.safetensors", weights)
    assert [file.name for file in tmp_path.iterdir()] == ["w.pkl"]


# --- conversion ---


def test_there_and_back_is_lossless(tmp_path, content, ours):
    weights = read_weights(ours)
    write_weights(tmp_path / "back.pkl", weights)
    assert_same_official(torch.load(tmp_path / "back.pkl", weights_only=True), content)


def test_equal_weights_give_equal_bytes(tmp_path, pkl, ours):
    for suffix, reference in ((".safetensors", ours), (".pkl", None)):
        files = [tmp_path / f"{i}{suffix}" for i in range(2)]
        for file in files:
            write_weights(file, read_weights(ours))
        assert files[0].read_bytes() == files[1].read_bytes()
        assert reference is None or reference.read_bytes() == files[0].read_bytes()


def test_reference_checkpoint_goes_there_and_back(tmp_path, monkeypatch, import_reference):
    reference = import_reference("make_weights")
    monkeypatch.setattr(sys, "argv", ["make_weights.py", "--size", "mini", "--out", str(tmp_path)])
    reference.main()
    original = torch.load(tmp_path / "osediff.pkl", weights_only=True)
    weights = read_weights(tmp_path / "osediff.pkl")
    assert {group: len(modules) for group, modules in weights.unet_groups.items()}["others"] == 16
    write_weights(tmp_path / "w.safetensors", weights)
    write_weights(tmp_path / "w.pkl", read_weights(tmp_path / "w.safetensors"))
    assert_same_official(torch.load(tmp_path / "w.pkl", weights_only=True), original)


def test_safetensors_names_and_metadata(ours, content):
    with safe_open(ours, "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert {
        "unet.conv_in.weight",
        "unet.conv_in.bias",
        "unet.conv_in.lora_A.weight",
        "vae.quant_conv.lora_B.weight",
    } <= names
    assert len(names) == len(content["state_dict_unet"]) + len(content["state_dict_vae"])
    wanted = {
        "format": "osediff",
        "version": "1",
        "timestep": "999",
        "prediction_type": "epsilon",
        "rank_unet": "4",
    }
    assert wanted.items() <= metadata.items()
    assert "base" in metadata


def test_own_metadata_survive(tmp_path, pkl):
    weights = read_weights(pkl)
    weights.metadata |= {"timestep": "500", "prediction_type": "v_prediction", "note": "für später"}
    write_weights(tmp_path / "w.safetensors", weights)
    again = read_weights(tmp_path / "w.safetensors")
    assert (again.timestep, again.prediction_type, again.metadata["note"]) == (
        500,
        "v_prediction",
        "für später",
    )
    assert again.metadata == weights.metadata


@pytest.mark.parametrize(("key", "value"), [("timestep", "500"), ("prediction_type", "v_prediction")])
def test_official_export_refuses_what_it_cannot_say(tmp_path, pkl, key, value):
    weights = read_weights(pkl)
    weights.metadata[key] = value
    with pytest.raises(CheckpointError, match=value):
        write_weights(tmp_path / "w.pkl", weights)
    assert not (tmp_path / "w.pkl").exists()


def test_weights_without_own_conv_in(tmp_path, pkl):
    weights = read_weights(pkl)
    weights.conv_in = {}
    write_weights(tmp_path / "w.safetensors", weights)
    assert read_weights(tmp_path / "w.safetensors").conv_in == {}
    with pytest.raises(CheckpointError, match="no conv_in"):
        write_weights(tmp_path / "w.pkl", weights)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
        ("fp32", torch.float32),
        (torch.float16, torch.float16),
    ],
)
def test_dtype(tmp_path, pkl, content, dtype, expected):
    write_weights(tmp_path / "w.safetensors", read_weights(pkl), dtype=dtype)
    weights = read_weights(tmp_path / "w.safetensors")
    original = content["state_dict_unet"]["conv_out.lora_A.default_decoder.weight"]
    assert torch.equal(weights.unet_lora["conv_out"].A, original.to(expected))
    assert {tensor.dtype for tensor in weights.tensors().values()} == {expected}


def test_unknown_dtype_and_overflow(tmp_path, pkl):
    weights = read_weights(pkl)
    with pytest.raises(OptionError, match="int8"):
        write_weights(tmp_path / "w.safetensors", weights, dtype="int8")
    weights.conv_in["bias"][0] = 1e6
    with pytest.raises(CheckpointError, match="too large for torch"):
        write_weights(tmp_path / "w.safetensors", weights, dtype="fp16")
    assert not (tmp_path / "w.safetensors").exists()


# --- files that are not what they should be ---


class _Code:
    def __reduce__(self):
        return (os.system, ("touch " + os.environ["OSEDIFF_TEST_MARK"],))


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "zip-protocol-4"])
def test_code_in_a_pickle_is_not_run(tmp_path, monkeypatch, content, how):
    mark, path = tmp_path / "ran", tmp_path / "evil.pkl"
    monkeypatch.setenv("OSEDIFF_TEST_MARK", str(mark))
    content["rank_unet"] = _Code()
    if how == "pickle":
        path.write_bytes(pickle.dumps({"a": _Code()}))
    else:
        protocol = 4 if how.endswith("4") else 2
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=how != "legacy")
    refused(path, "code", "system", "not opened")
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_truncated_torch_file(tmp_path, content, zipped, share):
    path = tmp_path / "w.pkl"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "cut short", "again")


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.9, 0.9999])
def test_truncated_safetensors(ours, share):
    data = ours.read_bytes()
    ours.write_bytes(data[: max(9, int(len(data) * share))])
    refused(ours, "cut short", "again")


def test_missing_empty_folder(tmp_path):
    refused(tmp_path / "no.pkl", "does not exist")
    (tmp_path / "empty.pkl").touch()
    refused(tmp_path / "empty.pkl", "empty")
    refused(tmp_path, "folder")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "PNG"),
        (b"<!doctype html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"hello", "no file of tensors"),
        (b"cos\nsystem\n(S'echo'\ntR.", "no file of tensors"),
        (b"PK\x03\x04" + bytes(100), "damaged"),
        (pickle.dumps({"a": 1}), "not of torch.save's tensors"),
        (bytes([0x80, 2]) + b"rubbish", "damaged"),
    ],
)
def test_other_content(tmp_path, data, word):
    (tmp_path / "w.pkl").write_bytes(data)
    refused(tmp_path / "w.pkl", word)


def test_checkpoint_of_another_model(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"lora_unet_mid.lora_down.weight": torch.ones(4, 4)}, path)
    refused(path, "a LoRA in the kohya format, not OSEDiff weights")
    safetensors.torch.save_file(
        {"unet.conv_in.lora_A.weight": torch.ones(4, 4)}, path
    )  # our names, but not our file
    refused(path, "a LoRA in the diffusers or ComfyUI format")
    torch.save(
        {"state_dict": {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(320, 4, 3, 3)}}, path
    )
    refused(path, "Stable Diffusion", "not OSEDiff weights")
    torch.save([1, 2, 3], path)
    refused(path, "a file without tensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values(tmp_path, content, value):
    content["state_dict_vae"]["quant_conv.lora_A.default_encoder.weight"][0] = value
    torch.save(content, tmp_path / "w.pkl")
    refused(tmp_path / "w.pkl", "NaN or infinite", "vae.quant_conv.lora_A.weight")


def test_tensors_of_integers(tmp_path, content):
    content["state_dict_unet"]["conv_out.lora_A.default_decoder.weight"] = torch.ones(
        4, 32, 3, 3, dtype=torch.int32
    )
    torch.save(content, tmp_path / "w.pkl")
    refused(tmp_path / "w.pkl", "not floats", "unet.conv_out.lora_A.weight")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("rank_unet", 8, ("UNet", "rank 8", "rank 4")),
        ("rank_vae", 2, ("VAE", "rank 2", "rank 4")),
        ("rank_unet", None, ("rank_unet",)),
        ("unet_lora_others_modules", 3, ("unet_lora_others_modules",)),
        ("state_dict_vae", {"a": 1}, ("state_dict_vae",)),
    ],
)
def test_official_file_that_contradicts_itself(tmp_path, content, key, value, words):
    content[key] = value
    torch.save(content, tmp_path / "w.pkl")
    refused(tmp_path / "w.pkl", *words)


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("version", "2", "version 2"),
        ("timestep", "soon", "timestep 'soon'"),
        ("prediction_type", "sample", "prediction type 'sample'"),
        ("rank_vae", "x", "rank_vae"),
        ("vae_modules", "[1]", "vae_modules"),
        ("unet_others_modules", "[", "unet_others_modules"),
        ("unet_order", None, "lacks the metadata unet_order"),
    ],
)
def test_own_file_with_bad_metadata(ours, key, value, word):
    tensors = safetensors.torch.load_file(ours)
    with safe_open(ours, "pt") as file:
        metadata = {k: v for k, v in {**file.metadata(), key: value}.items() if v is not None}
    safetensors.torch.save_file(tensors, ours, metadata)
    refused(ours, word)


def test_own_file_with_missing_and_unexpected_tensors(ours):
    tensors = safetensors.torch.load_file(ours)
    with safe_open(ours, "pt") as file:
        metadata = file.metadata()
    del tensors["unet.conv_in.bias"], tensors["vae.quant_conv.lora_A.weight"]
    tensors["unet.other"] = torch.ones(1)
    safetensors.torch.save_file(tensors, ours, metadata)
    weights = read_weights(ours)
    assert weights.missing == ["unet.conv_in.bias", "vae.quant_conv.lora_A.weight"]
    assert weights.unexpected == ["unet.other"]


# --- writing ---


def test_suffix_and_folder_of_the_output(tmp_path, pkl):
    weights = read_weights(pkl)
    for name in ("w.ckpt", "w"):
        with pytest.raises(CheckpointError, match=r"name it \.safetensors or \.pkl"):
            write_weights(tmp_path / name, weights)
    (tmp_path / "dir.pkl").mkdir()
    with pytest.raises(CheckpointError, match="is a folder"):
        write_weights(tmp_path / "dir.pkl", weights)
    with pytest.raises(CheckpointError, match="create its folder first"):
        write_weights(tmp_path / "no" / "w.pkl", weights)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_weights(tmp_path / "file" / "w.pkl", weights)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path, pkl):
    weights = read_weights(pkl)
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="choose another folder"):
        write_weights(tmp_path / "locked" / "w.pkl", weights)


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, pkl, suffix):
    weights = read_weights(pkl)
    target = tmp_path / f"old{suffix}"
    target.write_bytes(b"old")
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (10_000, hard)
    )  # the system then fails writes as on a full disk
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            write_weights(target, weights)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([target.name, pkl.name])


def test_written_file_has_ordinary_permissions_and_links_stay(tmp_path, pkl):
    weights = read_weights(pkl)
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.pkl"
    link.symlink_to(tmp_path / "real" / "w.pkl")
    write_weights(link, weights)
    umask = os.umask(0)
    os.umask(umask)
    assert link.is_symlink()
    assert stat.S_IMODE((tmp_path / "real" / "w.pkl").stat().st_mode) == 0o666 & ~umask


def test_lists_and_tensors_must_agree_when_writing(tmp_path, pkl):
    weights = read_weights(pkl)
    del weights.unet_lora["conv_out"]
    with pytest.raises(CheckpointError, match="unet conv_out"):
        write_weights(tmp_path / "w.pkl", weights)
