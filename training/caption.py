"""Write captions for pictures beforehand, and their prompt embeddings.

    python -m training.caption --tagger NAME --out captions.jsonl SOURCE [SOURCE ...]
        [--embeddings FOLDER --base BASE]

SOURCE is what data.sources takes as a path. Lines are added as pictures are done; the same command goes on after an
interruption. data.captions=file:captions.jsonl and prompt_cache=FOLDER use what it made.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from osediff_core.atomic import write_bytes_atomically
from osediff_core.errors import OSEDiffError, first_line

from .data.captions import Tagger, find_tagger, read_captions
from .data.config import SourceConfig
from .data.pictures import decode
from .data.prompts import PromptCache
from .data.sources import Source, open_source
from .errors import TrainingError
from .tiny.photos import to_tensor

log = logging.getLogger("training")


def caption(sources: Sequence[Source], tagger: Tagger, out: Path) -> dict[str, str]:
    """Add what is missing to the file `out`; all captions by name. Broken pictures are logged and left out.

    Raises TrainingError where `out` cannot be written, DataError where it is something else.
    """
    done = read_captions(out) if out.exists() else {}
    try:
        _mend(out, done)
        with out.open("a", encoding="utf-8", buffering=1) as file:
            for source in sources:
                for index in range(len(source)):
                    name = source.name(index)
                    if name not in done and (found := _tagged(source, index, tagger)) is not None:
                        done[name] = found
                        file.write(json.dumps({"name": name, "caption": found}, ensure_ascii=False) + "\n")
    except OSError as error:
        raise TrainingError(
            f"{out} cannot be written ({error.strerror}); free space or change --out."
        ) from error
    return done


def _tagged(source: Source, index: int, tagger: Tagger) -> str | None:
    try:
        image = decode(source.read(index))
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        log.warning("skipped %s (%s)", source.name(index), first_line(error))
        return None
    return tagger(to_tensor(np.asarray(image)[None]))[0]


def _mend(out: Path, done: dict[str, str]) -> None:
    """Write the file again without the last line, if a kill tore it."""
    text = out.read_text(encoding="utf-8") if out.exists() else ""
    if text and not text.endswith("\n"):
        rows = (json.dumps({"name": n, "caption": c}, ensure_ascii=False) + "\n" for n, c in done.items())
        write_bytes_atomically(out, "".join(rows).encode())


def embed(captions: Sequence[str], base: str, folder: Path) -> None:
    """Put the embeddings of all captions, and of the empty prompt, where the trainer's prompt_cache finds them."""
    from osediff_core.backends.base import load_base

    loaded = load_base(base, "fp32")
    cache = PromptCache(loaded.text, folder, keep=1, identity=base)
    for prompt in dict.fromkeys(["", *captions]):
        cache([prompt])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m training.caption",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    parser.add_argument(
        "--tagger", required=True, metavar="NAME", help="appearance, or package.module:callable"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.jsonl")
    parser.add_argument("--embeddings", type=Path, metavar="FOLDER", help="also write prompt embeddings")
    parser.add_argument("--base", default="tiny", help="whose text encoder makes them")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        sources = [open_source(SourceConfig(path)) for path in args.sources]
        found = caption(sources, find_tagger(args.tagger), args.out)
        if args.embeddings:
            embed(list(found.values()), args.base, args.embeddings)
    except OSEDiffError as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        log.error("interrupted; the same command goes on")
        return 130
    log.info("%d captions in %s", len(found), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
