"""Configurations of a base that cannot be, and those that only look so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mini_models.networks import SD21
from refusals import refused

from osediff_core.backends.base_configs import read_configs
from osediff_core.backends.find_base import PACKAGED
from osediff_core.backends.tokenizer import load_tokenizer
from osediff_core.errors import BaseModelError
from osediff_core.schedule import NoiseSchedule

UNET, VAE, TEXT = (f"{part}/config.json" for part in ("unet", "vae", "text_encoder"))
SCHEDULE, TOKENIZER = "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"
VOCABULARY = 2048
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded base without its weights; a test may change it."""
    without_weights = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(PACKAGED["tiny"], tmp_path / "base", ignore=without_weights))


def change(folder: Path, file: str, **values: object) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("base", [SD21, PACKAGED["tiny"]], ids=["sd21", "tiny"])
def test_ours_are_possible(base: Path) -> None:
    read_configs(base)


IMPOSSIBLE = [
    (SCHEDULE, "beta_end", (-1, 0, 1, 2, "0.012", True, NAN, INF, [0.1], None)),
    (SCHEDULE, "beta_start", (1e308, -0.1, {}, "low")),
    (SCHEDULE, "num_train_timesteps", (-1, 0, 100_000_000, 1000.5, "1000", 10**400, None)),
    (SCHEDULE, "trained_betas", (0, [], [0.1, 2], [[0.1]], "x", [NAN])),
    (SCHEDULE, "beta_schedule", ("sigmoid", 3, [], None)),
    (SCHEDULE, "prediction_type", ("flow", 1, ["epsilon"])),
    (VAE, "scaling_factor", (None, "abc", 0, -1, NAN, INF, 1e308, [0.18])),
    (VAE, "shift_factor", ("x", NAN, [1])),
    (VAE, "latents_mean", ([0.0] * 8, 1)),
    (VAE, "norm_num_groups", (-1, 0, 3, 7, True, None, 4.0, 10**30)),
    (VAE, "block_out_channels", ("wide", [], [32], [32, 64, 10**9], [32, 64, -64], [32, 64, 64, 64])),
    (VAE, "layers_per_block", (0, 10**7, "1")),
    (VAE, "latent_channels", (0, 4, -8, 10**12)),
    (VAE, "down_block_types", (["DownEncoderBlock2D"], ["X"] * 3, "DownEncoderBlock2D", [{}] * 3)),
    (VAE, "act_fn", ("os.system", 1)),
    (VAE, "_class_name", ("AutoencoderKLWan", 3, {"a": 1})),
    (UNET, "norm_num_groups", (True, -1, 5, None)),
    (UNET, "attention_head_dim", (-1, 0, 5, [1], [1, 3], [[1], [2]], "8", None)),
    (UNET, "cross_attention_dim", (768, [64, 64], -1, 10**9)),
    (UNET, "in_channels", (4, 9, 0)),
    (UNET, "layers_per_block", ([1], [1, 0], 10**6)),
    (UNET, "transformer_layers_per_block", (10**7, [1], [[1], [1]])),
    (UNET, "norm_eps", (0, -1, NAN, "small")),
    (UNET, "dropout", (1, -0.1, "x")),
    (UNET, "addition_embed_type", ("text_time",)),
    (UNET, "class_embed_type", ("timestep",)),
    (UNET, "num_class_embeds", (10,)),
    (UNET, "time_embedding_type", ("fourier",)),
    (UNET, "_class_name", ("SD3Transformer2DModel", [], 7)),
    (TEXT, "num_attention_heads", (-1, 0, 3, 1.5)),
    (TEXT, "hidden_size", (63, 0, 10**9, 128)),
    (TEXT, "num_hidden_layers", (0, 10**7, "2")),
    (TEXT, "max_position_embeddings", (0, -77, 10**9, "77")),
    (TEXT, "vocab_size", (0, 10**12)),
    (TEXT, "hidden_act", ("exec", None, 3)),
    (TEXT, "layer_norm_eps", (0, NAN, "x")),
    (TEXT, "architectures", (["T5EncoderModel"], "T5EncoderModel", [3])),
]


@pytest.mark.parametrize(("file", "key", "values"), IMPOSSIBLE, ids=lambda v: v if isinstance(v, str) else "")
def test_impossible_values_are_named(folder: Path, file: str, key: str, values: tuple) -> None:
    before = (folder / file).read_text()
    for value in values:
        (folder / file).write_text(before)
        change(folder, file, **{key: value})
        with refused(BaseModelError) as caught:
            read_configs(folder)
        assert len(str(caught.value)) < 400 + len(str(folder)), "a short sentence, whatever the value"


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (UNET, "[" * 100_000, "no usable JSON"),
        (UNET, '{"a":' * 5000 + "1" + "}" * 5000, "no usable JSON"),
        (VAE, "[]", "JSON object"),
        (TEXT, "\x00\x01", "no usable JSON"),
        (TEXT, "{", "no usable JSON"),
        (VAE, '{"latent_channels": ' + "9" * 5000 + "}", "no usable JSON"),
        (SCHEDULE, "{}", "does not say beta_schedule"),
        (UNET, "{}", "does not say"),
    ],
)
def test_files_that_say_nothing_are_named(folder: Path, file: str, text: str, words: str) -> None:
    (folder / file).write_text(text)
    with refused(BaseModelError, folder / file, words):
        read_configs(folder)


def test_a_value_that_a_default_would_replace_in_silence_has_to_be_there(folder: Path) -> None:
    path = folder / SCHEDULE
    for key in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps"):
        before = path.read_text()
        path.write_text(json.dumps({k: v for k, v in json.loads(before).items() if k != key}))
        with refused(BaseModelError, "does not say", key):
            read_configs(folder)
        path.write_text(before)
    change(folder, VAE)
    config = json.loads((folder / VAE).read_text())
    del config["scaling_factor"]  # diffusers' default is Stable Diffusion's, of 4 channels
    (folder / VAE).write_text(json.dumps(config))
    with refused(BaseModelError, "does not say scaling_factor"):
        read_configs(folder)


def test_a_table_of_betas_needs_nothing_else(folder: Path) -> None:
    (folder / SCHEDULE).write_text('{"trained_betas": [0.1, 0.2]}')
    assert NoiseSchedule.from_config(read_configs(folder).scheduler).num_timesteps == 2


@pytest.mark.parametrize(
    "config",
    [
        {
            "beta_schedule": "linear",
            "beta_start": 0.5,
            "beta_end": 0.9,
            "num_train_timesteps": 1000,
        },  # no signal
        {"trained_betas": [0.0, 0.1]},
        {"trained_betas": [0.1, -0.1, 0.1]},
        {"trained_betas": [[0.1, 0.2]]},
        {"beta_schedule": "linear", "num_train_timesteps": -1},
    ],
)
def test_a_schedule_adds_noise_and_keeps_signal_at_every_timestep(config: dict) -> None:
    with refused(BaseModelError):
        NoiseSchedule.from_config(config)


# --- the tokenizer ---


def tokenizer(folder: Path, vocab_size: int = VOCABULARY) -> None:
    load_tokenizer(folder / "tokenizer", vocab_size)


def test_ours_loads(folder: Path) -> None:
    tokenizer(folder)


def test_words_without_merges_are_noticed(folder: Path) -> None:
    merges = folder / "tokenizer" / "merges.txt"
    lines = merges.read_text(encoding="utf-8").splitlines()
    for text in ("", lines[0], "\n".join(lines[:-1])):
        merges.write_text(text, encoding="utf-8")
        with refused(BaseModelError, "has no merges for"):
            tokenizer(folder)
    for text in ("\n".join([*lines, "q z9"]), "no pair at all here", "\x00"):
        merges.write_text(text, encoding="utf-8")
        with refused(BaseModelError, folder / "tokenizer"):
            tokenizer(folder)


@pytest.mark.parametrize(
    "how", ["more words", "none", "fewer", "list", "not numbers", "same number", "negative"]
)
def test_a_vocabulary_of_another_model_is_noticed(folder: Path, how: str) -> None:
    path = folder / "tokenizer" / "vocab.json"
    words = json.loads(path.read_text(encoding="utf-8"))
    changed = {
        "more words": words | {"q": 99_999},
        "none": {},
        "fewer": {word: i for word, i in words.items() if i < 500},
        "list": list(words),
        "not numbers": dict.fromkeys(words, "x"),
        "same number": dict.fromkeys(words, 3),
        "negative": words | {"q": -4},
    }[how]
    path.write_text(json.dumps(changed), encoding="utf-8")
    with refused(BaseModelError, folder / "tokenizer"):
        tokenizer(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"model_max_length": "abc"},
        {"model_max_length": -1},
        {"tokenizer_class": "T5Tokenizer"},
        {"tokenizer_class": 3},
        {"pad_token": "no such word"},
        {"pad_token": 5},
        {"added_tokens_decoder": {"5000": {"content": "far away"}}},
        {"added_tokens_decoder": "x"},
        {"bos_token": {"content": "<|startoftext|>", "": None}},
        {"eos_token": {"content": 3}},
        {"additional_special_tokens": [{"content": "a", "odd": 1}]},
        {"extra_special_tokens": 7},
        {"unk_token": {"content": "a", "lstrip": "yes"}},
        {"auto_map": {"AutoTokenizer": ["own.Own", None]}},
    ],
    ids=str,
)
def test_settings_of_another_tokenizer_are_noticed(folder: Path, values: dict, capfd) -> None:
    (folder / "tokenizer" / "special_tokens_map.json").unlink()  # it would say the padding first
    change(folder, TOKENIZER, **values)
    with refused(BaseModelError, folder / "tokenizer"):
        tokenizer(folder)
    assert capfd.readouterr().out == ""  # which may be a document of --json


def test_the_padding_has_to_be_said(folder: Path) -> None:
    """CLIP's own is another than Stable Diffusion 2's."""
    for file in (folder / "tokenizer").glob("*.json"):
        if file.name != "vocab.json":
            file.write_text(
                json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "pad_token"})
            )
    with refused(BaseModelError, "pad_token"):
        tokenizer(folder)
    (folder / TOKENIZER).unlink()
    with refused(BaseModelError, "tokenizer_config.json"):
        tokenizer(folder)


def test_ids_are_rows_of_the_text_encoder(folder: Path) -> None:
    with refused(BaseModelError, "1024 rows"):
        tokenizer(folder, 1024)
