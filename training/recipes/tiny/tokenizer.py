"""A small CLIP tokenizer: byte-pair merges learned from tag words, in CLIP's own file format."""

from __future__ import annotations

import json
from pathlib import Path

from .architecture import VOCABULARY

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
PAD = "!"  # id 0, as in SD 2.1


def _byte_alphabet() -> list[str]:
    """CLIP's 256 printable stand-ins for bytes, in its vocabulary order ("!" first)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def train_tokenizer(words: list[str], folder: Path) -> None:
    """Learn merges from `words` (lower-case tags) and write a folder that CLIPTokenizer.from_pretrained reads."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    alphabet = _byte_alphabet()
    bytes_and_ends = alphabet + [letter + END_OF_WORD for letter in alphabet]
    room = VOCABULARY - len(bytes_and_ends) - 2
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=4 * VOCABULARY, end_of_word_suffix=END_OF_WORD, show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)
    learned = json.loads(tokenizer.to_str())["model"]["merges"]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in learned][:room]
    tokens = bytes_and_ends + ["".join(pair) for pair in merges]
    # A vocabulary smaller than planned is filled up, so that ids of the two special tokens stay the last two.
    tokens += [f"<|unused{index}|>" for index in range(VOCABULARY - 2 - len(tokens))] + [START, END]

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": PAD,
        "model_max_length": 77,
        "do_lower_case": True,
        "add_prefix_space": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": PAD}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
