"""The prompt cache: the text encoder runs once a prompt."""

import pytest
import torch

from training.data import DataError
from training.data.prompts import PromptCache


class Encoder:
    def __init__(self):
        self.seen = []

    def __call__(self, prompts):
        self.seen += prompts
        rows = [torch.linspace(0, len(prompt) + 1, 12).reshape(3, 4) for prompt in prompts]
        return torch.stack(rows).requires_grad_()


def test_each_prompt_is_encoded_once_and_the_order_is_kept():
    encode = Encoder()
    cache = PromptCache(encode)
    found = cache(["a", "bb", "a"])
    assert found.shape == (3, 3, 4) and found[0].equal(found[2]) and not found.requires_grad
    assert cache(["bb"])[0].equal(found[1]) and encode.seen == ["a", "bb"]


def test_the_least_recently_used_are_forgotten():
    encode = Encoder()
    cache = PromptCache(encode, keep=2)
    cache(["a"]), cache(["b"]), cache(["a"]), cache(["c"]), cache(["a"]), cache(["b"])
    assert encode.seen == ["a", "b", "c", "b"]
    assert cache(["d", "e", "f"]).shape[0] == 3  # more at once than are kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_folder_serves_other_processes_and_keeps_encoders_apart(tmp_path, dtype):
    made = PromptCache(Encoder(), tmp_path / "cache", dtype=dtype, identity="base")(["a", ""])
    again, other = Encoder(), Encoder()
    found = PromptCache(again, tmp_path / "cache", dtype=dtype, identity="base")(["a", ""])
    assert found.equal(made) and found.dtype == dtype and again.seen == []
    PromptCache(other, tmp_path / "cache", identity="other base")(["a"])
    assert other.seen == ["a"]


@pytest.mark.parametrize("damage", [b"", b"not a file of tensors", None])
def test_damaged_files_are_made_anew(tmp_path, damage):
    made = PromptCache(Encoder(), tmp_path)(["a"])
    path = PromptCache(Encoder(), tmp_path).path("a")
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    encode = Encoder()
    assert PromptCache(encode, tmp_path)(["a"]).equal(made) and encode.seen == ["a"]
    assert PromptCache(encode, tmp_path)(["a"]).equal(made) and encode.seen == ["a"]


def test_a_full_disk_costs_the_cache_and_not_the_run(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.data.prompts.write_bytes_atomically", full)
    assert PromptCache(Encoder(), tmp_path)(["a", "b"]).shape == (2, 3, 4)
    assert caplog.text.count("No space left") == 1


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be made"):
        PromptCache(Encoder(), tmp_path / "file" / "cache")
