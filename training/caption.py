"""Captions of whole pictures, made once before training.

    python -m training.caption --out captions.jsonl --tagger appearance SOURCE...
    python -m training.caption --out captions.jsonl --tagger ram_swin_large_14m.pth SOURCE...
    python -m training.caption --out captions.jsonl --tagger my.module:tag SOURCE... \\
        --embeddings FOLDER --base BASE --base-dtype bf16 --precision bf16

The official training tags each crop instead (captions: tagger:ram_swin_large_14m.pth), so that a prompt names nothing
that the crop has not.

Several processes share the pictures, each on a GPU of its own if there are that many:

    torchrun --nproc_per_node 8 -m training.caption --out captions.jsonl --tagger ram_swin_large_14m.pth SOURCE...

Each writes OUT.part and its number, and the first joins them at the end. Where they cannot be started together:
--share 1/8 to --share 8/8, each with its own --out; `cat` joins the files. With --engine ray they are actors, on all
GPUs of this machine or of a cluster (--address).

SOURCE is the path of a source, written as in the run's configuration: captions are found by these names. A line is
{"name", "caption"}; a stopped run goes on where it was. --embeddings fills the prompt cache that the trainer reads if
its base, base_dtype and precision are the same: 77 x 1024 numbers a prompt of SD 2.1, 0.16 MB in half precision.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm

from osediff_core.cli.entry import run_main
from osediff_core.cli.many import actors
from osediff_core.errors import OptionError, explained, first_line
from osediff_core.runtime.device import DTYPES, parse_device

from .captioning import CaptionRecipe, Elsewhere, caption_on_ray
from .data.captions import Tagger, find_tagger, read_captions
from .data.config import SourceConfig
from .data.errors import DataError
from .data.pictures import BrokenPicture, decode, to_tensor
from .data.prompts import PromptCache, identity_of, kept_dtype
from .data.sources import Source, open_source

log = logging.getLogger("training.caption")

_ALL = "1/1"
_LONGEST_WAIT = timedelta(days=3)  # of processes that are done for those that are not


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    return run_main(lambda: _run(options), log, interrupted="stopped; the same command goes on from here")


def _run(options: argparse.Namespace) -> None:
    if options.embeddings and not options.base:
        raise DataError("--embeddings needs --base, the model whose text encoder is used.")
    share = _share(options.share)
    processes = PartialState(cpu=options.device == "cpu", timeout=_LONGEST_WAIT)
    alone = processes.num_processes == 1
    if not alone and options.share != _ALL:
        raise OptionError("--share is for processes that are started one by one; torchrun shares by itself.")
    sources = [open_source(SourceConfig(path, options.kind, limit=options.limit)) for path in options.sources]
    device = parse_device(options.device) if alone else processes.device
    assert device is not None
    on_ray = options.engine == "ray"
    if on_ray and not alone:
        raise OptionError("--engine ray has processes of its own; start it without torchrun.")
    tagger = None if on_ray else find_tagger(options.tagger, device)
    if on_ray:
        configs = tuple(SourceConfig(path, options.kind, limit=options.limit) for path in options.sources)
        recipe = CaptionRecipe(configs, options.tagger, options.device)
        elsewhere = partial(caption_on_ray, recipe, options.address, options.actors)
        skipped = caption(sources, None, options.out, share, elsewhere=elsewhere)
    elif alone:
        skipped = caption(sources, tagger, options.out, share)
    else:
        own = part_of(options.out, processes.process_index)
        skipped = caption(
            sources, tagger, own, (processes.process_index, processes.num_processes), options.out
        )
    processes.wait_for_everyone()
    if not processes.is_main_process:
        return
    join_parts(options.out)
    log.info("%d captions in %s", len(read_captions(options.out)), options.out)
    if skipped:
        log.info("%d pictures have none, as they cannot be read (see above)", len(skipped))
    if options.embeddings:
        embed(
            options.out,
            options.embeddings,
            options.base,
            device,
            base_dtype=options.base_dtype,
            precision=options.precision,
        )


def _share(text: str) -> tuple[int, int]:
    """Raises OptionError."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise OptionError(f"--share is {text!r}; write 1/8 for the first of eight shares.")
    return int(number) - 1, int(count)


def part_of(out: Path, number: int | str) -> Path:
    """What one of several processes writes of `out`; with "*" a pattern of all of them."""
    return out.with_name(f"{out.name}.part{number}")


def join_parts(out: Path) -> None:
    """Append to `out` what processes wrote apart, also those of a run that was stopped; their files are removed.

    Raises DataError where `out` cannot be written.
    """
    with explained(DataError, f"{out} cannot be written", "choose another --out"):
        mend(out)
        for part in sorted(out.parent.glob(part_of(out, "*").name)):
            mend(part)
            known = read_captions(out) if out.exists() else {}
            new = {name: text for name, text in read_captions(part).items() if name not in known}
            with out.open("a", encoding="utf-8") as file:
                file.writelines(_line(name, text) for name, text in new.items())
            part.unlink()


def caption(
    sources: Sequence[Source],
    tagger: Tagger | None,
    out: Path,
    share: tuple[int, int] = (0, 1),
    whole: Path | None = None,
    elsewhere: Elsewhere | None = None,
) -> dict[str, str]:
    """Append a caption for every picture that has none yet; returns name -> reason of broken pictures.

    share: (i, n): only every n-th picture, from the i-th on. Those that have one are in `out` or, where that is a part,
    in `whole` or another part of it. elsewhere: captions them instead of the tagger, in other processes.

    Raises DataError if `out` is no list of captions or cannot be written, or if no picture can be read.
    """
    skipped = {name: reason for source in sources for name, reason in source.skipped.items()}
    for name, reason in skipped.items():
        log.warning("skipped %s: %s", name, reason)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        mend(out)
        done = _captioned(whole or out)
        with out.open("a", encoding="utf-8") as file, tqdm(disable=None, unit="picture") as bar:

            def tell(name: str, text: str | None, reason: str | None = None) -> None:
                bar.update()
                if text is None:
                    _skip(skipped, name, reason or "it has no caption")
                    return
                file.write(_line(name, text))
                file.flush()
                done.add(name)

            if elsewhere is not None:
                elsewhere(
                    sources, lambda index, name: index % share[1] == share[0] and name not in done, tell
                )
            elif tagger is not None:
                for name, data in _to_do(sources, done, skipped, share):
                    try:
                        pixels = np.asarray(decode(data))
                    except BrokenPicture as error:
                        tell(name, None, str(error))
                    else:
                        tell(name, tagger(to_tensor(pixels[None]))[0])
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}); choose another --out.") from error
    if not done and share[1] == 1:
        name, reason = next(reversed(skipped.items()))
        raise DataError(
            f"No picture can be captioned, the last one is {name} ({reason}); give other sources."
        )
    return skipped


def _captioned(out: Path) -> set[str]:
    """Names of the pictures that `out` or a part of it has a caption of."""
    places = [out, *out.parent.glob(part_of(out, "*").name)]
    return {name for place in places if place.exists() for name in read_captions(place)}


def _line(name: str, text: str) -> str:
    return json.dumps({"name": name, "caption": text}, ensure_ascii=False) + "\n"


def mend(path: Path) -> None:
    """Cut off a last line that was not written whole."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(whole)
            file.flush()
            os.fsync(file.fileno())


def embed(
    captions: Path,
    folder: Path,
    base: str,
    device: torch.device | str = "auto",
    *,
    base_dtype: str = "fp32",
    precision: str = "fp32",
) -> None:
    """Fill the prompt cache `folder` with the embeddings of all captions, and of the empty prompt.

    base_dtype, precision: of the run that will read them. Raises BaseModelError for a base that cannot be used,
    DataError where the disk has no room.
    """
    from osediff_core.backends.load_base import load_base

    text = load_base(base, base_dtype, device).text
    cache = PromptCache(text, folder, keep=1, dtype=kept_dtype(precision), identity=identity_of(text))
    prompts = {"", *read_captions(captions).values()}
    for prompt in tqdm(cache.foresee(sorted(prompts)), disable=None, unit="prompt"):
        cache([prompt])
    log.info("%d prompts in %s", len(prompts), folder)


def _to_do(
    sources: Sequence[Source], done: set[str], skipped: dict[str, str], share: tuple[int, int]
) -> Iterator[tuple[str, bytes]]:
    first, step = share
    for source in sources:
        for index in range(first, len(source), step):
            name = source.name(index)
            if name in done:
                continue
            try:
                data = source.read(index)
            except OSError as error:
                _skip(skipped, name, f"it cannot be read: {error.strerror or first_line(error)}")
                continue
            yield name, data


def _skip(skipped: dict[str, str], name: str, reason: str) -> None:
    log.warning("skipped %s: %s", name, reason)
    skipped[name] = reason


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.caption", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="folder, .txt list, .tar shards, data set"
    )
    parser.add_argument("--out", type=Path, required=True, help="captions, JSON lines; appended to")
    parser.add_argument(
        "--tagger", required=True, help="appearance, RAM's weights, or package.module:callable"
    )
    parser.add_argument(
        "--share", default=_ALL, metavar="I/N", help="only the I-th of N shares of the pictures"
    )
    parser.add_argument(
        "--engine", choices=("plain", "ray"), default="plain", help="ray: needs osediff[cluster]"
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="of a Ray cluster, or auto (default: this machine)"
    )
    parser.add_argument("--actors", type=actors, metavar="MIN:MAX", help="with ray: taggers at work")
    parser.add_argument("--kind", default="auto", help="of the sources: auto, folder, list, shards, dataset")
    parser.add_argument("--limit", type=int, default=0, help="only the first pictures of each source; 0: all")
    parser.add_argument("--embeddings", type=Path, help="folder of the prompt cache to fill")
    parser.add_argument("--base", help="with --embeddings: the base model, written as in the configuration")
    for name in ("--base-dtype", "--precision"):
        parser.add_argument(
            name, choices=list(DTYPES), default="fp32", help="with --embeddings: as the run has it"
        )
    parser.add_argument("--device", default="auto", help="of the tagger and the text encoder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
