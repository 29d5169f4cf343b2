"""Files that lie about what they hold, how large it is, and where it is: each a sentence, and nothing in it runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from refusals import refused

from osediff_core.errors import CheckpointError
from osediff_core.weights.describe import describe
from osediff_core.weights.identify import identify
from osediff_core.weights.tensor_file import TensorFile


class Runs:
    """A pickle that calls a function."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def refuse(path: Path, *words: str) -> str:
    with refused(CheckpointError, path, *words) as caught:
        file = TensorFile.open(path)
        file.tensors()
    assert "torch.save" not in str(caught.value) or "not of torch.save" in str(caught.value)
    return str(caught.value)


# --- code ---

MARK = "OSEDIFF_TEST_MARK"
CALLS = {
    "system": (os.system, f"touch ${MARK}"),
    "eval": (eval, f"open(__import__('os').environ['{MARK}'], 'w')"),
    "hub": (torch.hub.load, "nowhere", "nothing"),
    "load": (torch.load, "/nowhere"),
    "from_bytes": (torch.storage._load_from_bytes, pickle.dumps(Runs(eval, "1"))),
    "compile": (torch.compile, "x"),
    "getattr": (getattr, "x", "upper"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("how", ["zip", "legacy", "2", "4", "5", "second pickle", "second in zip", "deep"])
def test_no_function_is_called_and_its_name_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, call: str
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path / "ran"))
    path, evil = tmp_path / "w.pth", Runs(*CALLS[call])
    if how in ("zip", "legacy"):
        content = {"w": torch.ones(3), "state_dict_unet": evil}
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    elif how == "deep":
        torch.save({"w": [[{"x": ({"y": evil},)}]]}, path)
    elif how == "second pickle":
        path.write_bytes(pickle.dumps({"w": 1}, 2) + pickle.dumps(evil, 2))
    elif how == "second in zip":
        torch.save({"w": torch.ones(3)}, path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("archive/extra.pkl", pickle.dumps(evil))
    else:
        path.write_bytes(pickle.dumps({"w": evil}, int(how)))
    refuse(path, "holds Python code or objects", CALLS[call][0].__name__)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x30\x30h\x00h\x01\x93.",  # the strings come out of the memo
        b"\x80\x04\x8c\x02os\x8c\x06system\x8c\x05torch\x8c\x04Size00\x93.",  # other strings were pushed last
        b"\x80\x02\x82\x01.",  # an object by number
        b"\x80\x02(ios\nsystem\n.",
        b"\x80\x02cos\nsystem\n" + b"\xff" * 9,  # broken behind the name
    ],
    ids=["memo", "popped", "extension", "inst", "broken"],
)
def test_names_are_followed_through_the_pickle_machine(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.pkl").write_bytes(data)
    refuse(tmp_path / "w.pkl", "holds Python code or objects")


def test_a_pickle_that_holds_nothing_of_torch_gets_no_advice_to_save_it_again(tmp_path: Path) -> None:
    for content in ({"a": 1}, [1, 2], "text", {"a": {1: 2}}):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
        refuse(tmp_path / "w.pkl", "not of torch.save's tensors")


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "w.pt"))
    refuse(tmp_path / "w.pt")


# --- sizes ---


def bomb(path: Path, inflated: int) -> None:
    """A torch file whose pickle is compressed."""
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(4)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            if name.endswith(("data.pkl", "data/0")):
                with archive.open(name, "w") as file:
                    for _ in range(inflated >> 20):
                        file.write(bytes(1 << 20))
            else:
                archive.writestr(name, source.read(name))


def test_a_compressed_archive_is_not_inflated(tmp_path: Path) -> None:
    bomb(tmp_path / "w.pkl", 1 << 28)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(tmp_path / "w.pkl", "compressed archive")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # kB


def test_records_that_overlap_are_refused(tmp_path: Path) -> None:
    """Many names for the same bytes."""
    torch.save({"w": torch.ones(1000)}, tmp_path / "w.pkl")
    with zipfile.ZipFile(tmp_path / "w.pkl", "a") as archive:
        big = next(record for record in archive.infolist() if record.filename.endswith("data/0"))
        archive.filelist += [big] * 5000
        archive._didModify = True
    refuse(tmp_path / "w.pkl", "damaged")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_tensor_is_not_larger_than_its_file(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pkl"
    torch.save({"w": torch.ones(1).expand(1 << 20, 1 << 20)}, path, _use_new_zipfile_serialization=zipped)
    assert identify(path).kind == "unknown"  # to look at it costs nothing
    refuse(path, "fewer values")
    tensor = torch.ones(1 << 12)
    torch.save({f"w{i}": tensor for i in range(64)}, path, _use_new_zipfile_serialization=zipped)
    refuse(path, "fewer values")


def test_a_tensor_that_says_to_go_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    """torch makes the storage of an old file as large as it says, with whatever memory holds."""
    path = tmp_path / "w.pkl"
    torch.save({"w": torch.ones(77)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert data.count(b"KM\x85") == 1  # the shape (77,)
    path.write_bytes(data.replace(b"KM\x85", b"J\x00\x00\x00\x10\x85"))
    refuse(path)


@pytest.mark.parametrize("make", [lambda: torch.ones(3).to_sparse(), lambda: torch.ones(3, device="meta")])
def test_tensors_without_plain_values_are_refused(tmp_path: Path, make: Callable) -> None:
    torch.save({"w": make()}, tmp_path / "w.pkl")
    refuse(tmp_path / "w.pkl")


def test_torchs_oldest_format_is_not_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.pkl", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        link = tarfile.TarInfo("\x80storages")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    refuse(tmp_path / "w.pkl", "damaged or no torch file")


def test_a_pickle_without_end_is_left(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + b"N0" * (1 << 22))
    refuse(tmp_path / "w.pkl")


# --- headers of .safetensors ---

ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def write(path: Path, header: object, body: bytes = bytes(4), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' + b"[" * 20000 + b"]" * 20000 + b"}",
        b'{"a":' * 9000 + b"1" + b"}" * 9000,
        {"__metadata__": "abc", "w": ONE},
        {"__metadata__": ["abc"], "w": ONE},
        {"__metadata__": {"a": 1}, "w": ONE},
        {"__metadata__": {"a": {"b": "c"}}, "w": ONE},
        {"w": 1},
        {"w": []},
        {"w": None},
        {"w": {**ONE, "shape": "1"}},
        {"w": {**ONE, "shape": [True]}},
        {"w": {**ONE, "shape": [1.0]}},
        {"w": {**ONE, "shape": [-1]}},
        {"w": {**ONE, "shape": [10**30]}},
        {"w": {**ONE, "shape": [2**40, 2**40]}},
        {"w": {**ONE, "shape": [[1]]}},
        {"w": {**ONE, "shape": None}},
        {"w": {**ONE, "dtype": "F33"}},
        {"w": {**ONE, "dtype": 4}},
        {"w": {**ONE, "dtype": ["F32"]}},
        {"w": {**ONE, "data_offsets": [4, 0]}},
        {"w": {**ONE, "data_offsets": [0, 4, 8]}},
        {"w": {**ONE, "data_offsets": [0, 10**30]}},
        {"w": {**ONE, "data_offsets": "04"}},
        {"w": {**ONE, "data_offsets": None}},
        {"w": ONE, "v": ONE},  # the same bytes twice
        {"w": {"dtype": "F32", "shape": [1]}},
        {"w": {"shape": [1], "data_offsets": [0, 4]}},
        b'{"w": NaN}',
        b'{"w": ' + b"9" * 5000 + b"}",
        b"{\xff}",
        b'{"w"',
        b"{}",
    ],
    ids=range(33),
)
def test_odd_headers_are_damage(tmp_path: Path, header: object) -> None:
    refuse(write(tmp_path / "w.safetensors", header), "cut short or damaged")


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**62, 2**63, 2**64 - 1])
def test_the_length_of_a_header_is_not_believed(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "w.safetensors", {"w": ONE}, length=length)
    with refused(CheckpointError, path):
        TensorFile.open(path)


NAMES = [
    "model.diffusion_model.input_blocks.0.0.weight",
    "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "model.diffusion_model.x.attn2.to_k.weight",
    "first_stage_model.encoder.conv_in.weight",
    "cond_stage_model.model.ln_final.weight",
    "visual_encoder.patch_embed.proj.weight",
    "visual_encoder.layers.0.lora_A",
    "label_embed",
    "conv_in.weight",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "text_model.embeddings.token_embedding.weight",
    "double_blocks.0.img_attn.qkv.weight",
    "unet.down_blocks.0.attn2.to_k.lora_A.weight",
    "module.model.diffusion_model.input_blocks.0.0.weight",
    "",
    "." * 300,
    "x\x1b[31m\nosediff: all is well",
]


@pytest.mark.parametrize("shape", [[], [1], [1, 1], [0], [0, 3], [1, 1, 1, 1, 1, 1]], ids=str)
def test_names_of_models_with_shapes_of_none(tmp_path: Path, shape: list[int]) -> None:
    """Whatever the names promise, what the file is can be said."""
    empty = 0 in shape
    for names in ([name] for name in NAMES):
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0 if empty else 4]}
        path = write(tmp_path / "w.safetensors", {name: entry for name in names}, b"" if empty else bytes(4))
        assert identify(path).what
        assert describe(path)["tensors"] == 1


# --- paths ---


@pytest.mark.parametrize("name", ["n" * 300, "a\0b", "n/" * 3000, "~nobody-of-this-name/w", "\ud800", ""])
def test_impossible_paths(name: str) -> None:
    for function in (identify, describe):
        with refused(CheckpointError):
            function(name or "no such folder/x")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pkl")
    with refused(CheckpointError, "is a pipe"):
        identify(tmp_path / "w.pkl")
    with refused(CheckpointError, "is a device"):
        identify("/dev/zero")


def test_a_prefix_of_a_wrapper_is_no_part_of_the_names(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(320, 4, 3, 3)}
    for wrapper in ("module.", "_orig_mod.", "module._orig_mod."):
        wrapped = {wrapper + name: tensor for name, tensor in tensors.items()}
        save_file(wrapped, tmp_path / "w.safetensors")
        torch.save({"state_dict": wrapped}, tmp_path / "w.ckpt")
        for path in (tmp_path / "w.safetensors", tmp_path / "w.ckpt"):
            file = TensorFile.open(path)
            assert (
                file.shapes.keys()
                == file.tensors().keys()
                == dict(file.in_pieces(file.shapes)).keys()
                == tensors.keys()
            )
            assert identify(path).what.startswith("a Stable Diffusion checkpoint")
