"""The prompt cache: the text encoder runs once a prompt."""

import pytest
import torch

from training.data import DataError
from training.data.prompts import PromptCache, identity_of, kept_dtype


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


def test_a_base_is_known_by_what_it_holds_and_not_by_its_name(mini_base, tmp_path):
    import shutil

    from osediff_core.backends.load_base import load_base

    shutil.copytree(mini_base, tmp_path / "renamed")
    text = load_base(mini_base, "fp32", "cpu").text
    assert identity_of(load_base(tmp_path / "renamed", "fp32", "cpu").text) == identity_of(text)
    assert identity_of(load_base(mini_base, "bf16", "cpu").text) != identity_of(text)
    before = identity_of(text)
    with torch.no_grad():
        next(text.module.parameters()).view(-1)[5].add_(1e-3)
    assert identity_of(text) != before


def test_precisions_are_kept_apart(tmp_path):
    PromptCache(Encoder(), tmp_path, dtype=kept_dtype("bf16"))(["a"])
    exact = Encoder()
    PromptCache(exact, tmp_path, dtype=kept_dtype("fp32"))(["a"])
    assert exact.seen == ["a"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_changes_nothing_under_autocast(mini_base, precision):
    from training.config import ModelConfig
    from training.networks import build_networks
    from training.roles import GENERATOR
    from training.steps import autocast

    networks = build_networks(ModelConfig(base=str(mini_base)), torch.device("cpu"))
    embeds = networks.generator.encode_prompt(["a cat", "two dogs"])
    half = embeds.to(kept_dtype(precision))
    assert not half.float().equal(embeds)
    latents, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([999, 20])
    with torch.no_grad(), autocast(latents.device, precision):
        expected = networks.predict(GENERATOR, latents, timesteps, embeds)
        assert networks.predict(GENERATOR, latents, timesteps, half).equal(expected)


def test_the_size_is_said_first_and_a_full_disk_refused(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "training")
    cache = PromptCache(Encoder(), tmp_path)
    cache(["b"])
    assert cache.foresee(["a", "b", "a", "c"]) == ["a", "c"]
    assert "2 new prompts of 0 kB each will take 0.00 GB" in caplog.text
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(DataError, match="choose another folder"):
        cache.foresee(["d", "e", "f"])
    assert PromptCache(Encoder()).foresee(["a"]) == []
