"""A base with one-step weights merged into it, as a folder: made once, and mapped from its files from then on.

Such a folder is an ordinary diffusers folder. Weights without LoRA lie in it, whose metadata say what was merged, and
embeddings of prompts, so that the text encoder is loaded only for others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch

from .atomic import write_bytes_atomically
from .backends.find_base import DEFAULT_WEIGHTS, PROMPTS, Source
from .backends.prompt_store import PromptStore
from .backends.read_base import SD21_BASE
from .backends.speed import Speed
from .backends.tokenizer import TOKENIZER_FILES
from .errors import CheckpointError, OptionError, writing
from .load import MERGED, load_parts, read_weights_for
from .runtime.device import parse_device, parse_dtype, short_name
from .weights.checkpoint import write_weights
from .weights.digest import digest_of
from .weights.formats import osediff
from .weights.one_step_weights import OneStepWeights
from .weights.tensor_file import TensorFile

logger = logging.getLogger(__name__)

_VERSION = 1  # of what is in a folder; part of the key
_FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
_CONFIGS = (
    "model_index.json",
    *(f"{part}/config.json" for part in _FILES),
    "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in TOKENIZER_FILES),
)
_SUFFIXES = (".safetensors", ".bin", ".json", ".txt")
_DIGESTS = "digests.json"


def write_merged(
    folder: Path,
    source: Source,
    weights: str | Path | TensorFile | None,
    *,
    dtype: torch.dtype,
    strength: tuple[float, float] = (1.0, 1.0),
    prompts: Iterable[str] = ("",),
) -> None:
    """Write the base with the weights merged into it at this strength (UNet, VAE), rounded once to `dtype`.

    weights: None takes those that lie beside the base. prompts: whose embeddings are kept. The folder appears whole or
    not at all. Raises OptionError if it is there already, CheckpointError for another method's weights than OSEDiff's
    and for a disk that does not take it, and what `OneStepGenerator.load` raises.
    """
    if folder.exists():
        raise OptionError(f"{folder} is there already; give another folder, or remove it first.")
    one_step, facts = read_weights_for(source, weights, None)
    if one_step.method != osediff.METHOD:
        raise CheckpointError(
            f"{one_step.source} is of {facts.title}, which is merged anew at every start; leave out the merged base."
        )
    parts = load_parts(
        source,
        one_step,
        dtype=dtype,
        device="cpu",
        strength=strength,
        keep_base=False,
        decoder=None,
        speed=Speed(channels_last=False),
    )
    unfinished = folder.with_name(f".{folder.name[:40]}.{secrets.token_hex(4)}.tmp")
    networks = {"unet": parts.unet, "vae": parts.vae, "text_encoder": parts.text}
    with writing(CheckpointError, f"{folder} cannot be written", "choose another folder or free space"):
        try:
            unfinished.mkdir(parents=True)
            _copy_configs(source, unfinished)
            for part, name in _FILES.items():
                state = {
                    key: tensor.contiguous() for key, tensor in networks[part].module.state_dict().items()
                }
                safetensors.torch.save_file(state, unfinished / part / name, {"format": "pt"})
            store = PromptStore(unfinished / PROMPTS)
            for prompt in prompts:
                store.keep(prompt, parts.text([prompt])[0])
            write_weights(unfinished / DEFAULT_WEIGHTS, _note(one_step, strength, dtype))
            unfinished.rename(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def from_cache(
    cache: Path,
    source: Source,
    weights: str | Path | TensorFile | None,
    one_step: OneStepWeights,
    *,
    dtype: str | torch.dtype,
    device: str | torch.device,
    strength: tuple[float, float],
) -> Source | None:
    """The merged base in the folder `cache` that is of this content, made now if it is not there.

    one_step: what was read from `weights`. Files are known again by path, size and time, so that they are read through
    only once. None for weights of a method that is not kept, and for those that are merged already. Raises as
    `write_merged` does.
    """
    given = weights.path if isinstance(weights, TensorFile) else weights
    path = Path(given) if given is not None else source.default_weights
    if path is None or one_step.method != osediff.METHOD or MERGED in one_step.metadata:
        return None
    dtype = parse_dtype(dtype, parse_device(device))
    digests = _digests(cache, [*_files_of(source), path])
    settled = [_VERSION, digests, short_name(dtype), list(strength)]
    folder = cache / hashlib.sha256(json.dumps(settled).encode()).hexdigest()[:32]
    if not folder.is_dir():
        logger.info("merging into %s, once", folder)
        write_merged(folder, source, weights, dtype=dtype, strength=strength)
    return Source(source.name, folder, grows=True)


def _copy_configs(source: Source, folder: Path) -> None:
    configs = SD21_BASE if source.path.is_file() else source.path
    for name in _CONFIGS:
        if (configs / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(configs / name, folder / name)


def _note(weights: OneStepWeights, strength: tuple[float, float], dtype: torch.dtype) -> OneStepWeights:
    """Weights that change nothing, and say what was merged."""
    said = {MERGED: f"{strength[0]:g}, {strength[1]:g}", "merged_dtype": short_name(dtype)}
    return replace(
        weights,
        unet_sets=(osediff.lora({}, weights.rank_unet),),
        vae_lora=osediff.lora({}, weights.rank_vae),
        conv_in={},
        metadata=weights.metadata | said,
        unet_groups={group: [] for group in osediff.ADAPTER_OF_GROUP},
        vae_modules=[],
    )


def _files_of(source: Source) -> list[Path]:
    """All files that a base can be read from, in order."""
    if source.path.is_file():
        return [source.path]
    parts = (*_FILES, "tokenizer", "scheduler")
    return [p for part in parts for p in sorted((source.path / part).glob("*")) if p.suffix in _SUFFIXES]


def _digests(cache: Path, paths: list[Path]) -> list[str]:
    """SHA-256 of each file; of those that are as they were, as it was then."""
    record = cache / _DIGESTS
    try:
        known = json.loads(record.read_text())
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    found = {}
    for path in paths:
        real = path.resolve()
        state = real.stat()
        mark = [state.st_size, state.st_mtime_ns, state.st_ino]
        before = known.get(str(real))
        same = isinstance(before, list) and len(before) == 4 and before[:3] == mark
        found[str(real)] = before if same else [*mark, digest_of(real).value]
    if not found.items() <= known.items():
        with writing(CheckpointError, f"{cache} cannot be written", "choose another folder for the cache"):
            cache.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(record, json.dumps(known | found, indent=1).encode())
    return [entry[3] for entry in found.values()]
