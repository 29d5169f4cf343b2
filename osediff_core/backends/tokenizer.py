"""CLIP's tokenizer from a base's folder: no code in it is run, and its words and merges belong together."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BaseModelError, some_of
from .base_configs import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")
_FLAGS = {"lstrip", "rstrip", "normalized", "single_word", "special"}
_END = "</w>"  # of a word, in CLIP's vocabulary
SD21 = Path(__file__).parent / "sd21_base" / "tokenizer"  # known to pass every check
_SD21_WORDS = 49408
_REMEDY = "complete the base's tokenizer folder (vocab.json, merges.txt, tokenizer_config.json)"


def load_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Read the tokenizer from a local folder.

    vocab_size: of the text encoder, whose embeddings the ids are rows of. Raises BaseModelError if it is not there,
    broken, not whole, another one than CLIP's, or asks for code.
    """
    _check_config(folder)
    from transformers import CLIPTokenizerFast  # pyright: ignore[reportAttributeAccessIssue] - version 5 keeps the name

    try:
        loaded = CLIPTokenizerFast.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            model_max_length=int(1e30),  # transformers' "no limit": the text encoder sets it
        )
        if vocab_size == _SD21_WORDS and _same_files(folder, SD21):
            return loaded
        model = json.loads(loaded.backend_tokenizer.to_str())["model"]
        vocabulary = loaded.get_vocab()
        special = {name: getattr(loaded, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    except Exception as error:  # transformers and tokenizers raise many kinds; all mean that it is not usable
        raise BaseModelError(f"The tokenizer in {folder} cannot be read; {_REMEDY}.") from error
    _check_words(folder, model, set(loaded.get_added_vocab()))
    odd = [word for word, i in vocabulary.items() if not 0 <= i < vocab_size]
    odd += [name for name, i in special.items() if i is None]
    if odd or len(set(vocabulary.values())) < len(vocabulary):
        raise BaseModelError(
            f"The tokenizer in {folder} does not number its words as the text encoder's {vocab_size} rows "
            f"({some_of(list(map(repr, odd))) or 'some share a number'}); {_REMEDY}."
        )
    return loaded


def _same_files(folder: Path, known: Path) -> bool:
    """Whether two tokenizers are of the same bytes, which takes a hundredth of the time that checking one does."""
    ours, theirs = (
        {name: path for name in TOKENIZER_FILES if (path := where / name).is_file()}
        for where in (folder, known)
    )
    return ours.keys() == theirs.keys() and all(
        path.stat().st_size == theirs[name].stat().st_size and path.read_bytes() == theirs[name].read_bytes()
        for name, path in ours.items()
    )


def _check_config(folder: Path) -> None:
    config = read_json(folder / "tokenizer_config.json")
    if "auto_map" in config:
        raise BaseModelError(
            f"The tokenizer in {folder} asks for Python code of its own, which is never run; use a base with an "
            "ordinary CLIP tokenizer."
        )
    if config.get("tokenizer_class", _CLASSES[0]) not in _CLASSES:
        raise BaseModelError(
            f"The tokenizer in {folder} is a {config['tokenizer_class']!r:.60}, but OSEDiff needs a {_CLASSES[0]}; use "
            "a base such as Stable Diffusion 2.1-base."
        )
    limit = config.get("model_max_length", 1)
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit >= 1:
        raise BaseModelError(
            f"{folder / 'tokenizer_config.json'} has model_max_length {limit!r:.60}, which must be a number of tokens; "
            "get the file again."
        )
    named = folder / "special_tokens_map.json"
    special = read_json(named) if os.path.isfile(named) else {}
    _check_special(folder / "tokenizer_config.json", config)
    _check_special(named, special)
    if "pad_token" not in config and "pad_token" not in special:
        # CLIP's own padding is another than Stable Diffusion 2's, and the picture depends on it
        raise BaseModelError(f"The tokenizer in {folder} does not say its pad_token; {_REMEDY}.")


def _check_special(path: Path, values: dict[str, Any]) -> None:
    """Special tokens are texts, or texts with flags: of anything else the library prints on standard output."""
    tokens = {
        key: value
        for key, value in values.items()
        if key.endswith("_token") and not key.startswith("add_") and value is not None
    }
    for key in ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"):
        several = values.get(key) or {}
        several = dict(enumerate(several)) if isinstance(several, list) else several
        tokens |= several if isinstance(several, dict) else {key: several}
    for key, value in tokens.items():
        fields = {"content": value} if isinstance(value, str) else value
        if (
            not isinstance(fields, dict)
            or not isinstance(fields.get("content"), str)
            or not fields.keys() <= {"content", "__type", *_FLAGS}
            or not all(isinstance(fields[flag], bool) for flag in _FLAGS & fields.keys())
        ):
            raise BaseModelError(
                f"{path} has the token {key!r:.60} {value!r:.60}, which is none; get the file again."
            )


def _check_words(folder: Path, model: dict[str, Any], added: set[str]) -> None:
    """Every word of several symbols is made by a merge, and every byte is a word: else prompts fall to pieces."""
    from tokenizers.pre_tokenizers import ByteLevel

    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else pair for pair in model.get("merges", ())]
    made = {"".join(pair) for pair in merges} | added
    words = model["vocab"]
    orphans = [w for w in words if len(w.removesuffix(_END)) > 1 and w not in made]
    if orphans:
        raise BaseModelError(
            f"The tokenizer in {folder} has no merges for {len(orphans)} of its {len(words)} words "
            f"({some_of(list(map(repr, orphans)))}); {_REMEDY}."
        )
    lacking = [symbol for symbol in ByteLevel.alphabet() if symbol not in words or symbol + _END not in words]
    if lacking:
        raise BaseModelError(f"The tokenizer in {folder} lacks {len(lacking)} of the 256 bytes; {_REMEDY}.")
