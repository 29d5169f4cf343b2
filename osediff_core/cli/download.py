"""`osediff download`: published weights, fetched when asked for by name."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DiskFull, DownloadError, OptionError
from ..interrupts import pass_on
from .naming import output_folder
from .outcome import DONE, FAILED, Outcome
from .progress import hidden, tell
from .results import RunEnds, ends_early
from .signals import ending

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..weights.published import KnownFile

logger = logging.getLogger(__name__)

HELP = "fetch published weights"
EXAMPLES = """osediff download --list
osediff download osediff.pkl v2-1_512-ema-pruned.safetensors --to models/
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add = parser.add_argument
    add("names", metavar="NAME", nargs="*", help="files to fetch, as --list names them")
    add("--to", metavar="FOLDER", help="where to put them; made if missing")
    add("--list", action="store_true", help="show what can be fetched, and fetch nothing")


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OptionError before anything is fetched."""
    if args.list:
        if args.names:
            raise OptionError("--list shows what can be downloaded and takes no names; leave them out.")
        return _listing()
    if not args.names:
        raise OptionError("Name the files to download; osediff download --list shows them.")
    if args.to is None:
        raise OptionError("Say with --to which folder the files shall be put in.")
    files = [_known(name) for name in dict.fromkeys(args.names)]
    output_folder(args.to)
    results: list[dict[str, Any]] = []
    interrupted = ends_early(lambda: _fetch_all(files, args, results))
    left = len(files) - len(results)
    lines = [f"{r['name']}: {r['path'] or 'failed'}" for r in results]
    word, code = ending()
    if interrupted:
        lines.append(f"{left} not done: {word}, what has arrived is kept")
    failed = any(result["status"] == "failed" for result in results)
    data = {"command": "download", "not_done": left, "interrupted": interrupted, "results": results}
    return Outcome(code if interrupted else FAILED if failed else DONE, lines, data)


def _fetch_all(files: list[KnownFile], args: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """Appends one record per file when it is there or has failed."""
    for file in files:
        results.append(_fetch(file, Path(args.to), args))
        if args.json_lines:
            tell("result", **results[-1])
        if results[-1]["kind"] == DiskFull.__name__:
            raise RunEnds


def _known(name: str) -> KnownFile:
    from ..weights.published import find

    try:
        return find(name)
    except DownloadError as error:
        raise OptionError(str(error)) from error


def _fetch(file: KnownFile, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The JSON record of one file."""
    from tqdm import tqdm

    from ..weights.download import download

    result: dict[str, Any] = {
        "name": file.name,
        "path": None,
        "status": "failed",
        "bytes": None,
        "error": None,
        "kind": None,
    }
    with tqdm(desc=file.name, unit="B", unit_scale=True, disable=hidden(args)) as bar:
        try:
            path = download(file, folder, progress=_showing(bar, file.name if args.json_lines else None))
        except DownloadError as error:
            pass_on(error)
            logger.error("%s", error, exc_info=args.debug)
            return {**result, "error": str(error), "kind": type(error).__name__}
    return {**result, "path": str(path), "status": "ready", "bytes": path.stat().st_size}


def _showing(bar: tqdm, name: str | None) -> Callable[[int, int], None]:
    """name: of the file, where lines of JSON are wanted."""
    told = 0

    def show(done: int, total: int) -> None:
        nonlocal told
        pass_on()
        if name is not None and (done - told > total // 100 or done == total):
            told = done
            tell("step", name=name, done=done, total=total)
        if bar.total is None:
            # what was there already is not part of the speed
            bar.total, bar.initial, bar.n = total, done, done
        bar.update(done - bar.n)

    return show


def _listing() -> Outcome:
    from ..weights.published import KNOWN_FILES

    files = [
        {
            "name": file.name,
            "bytes": file.size,
            "hash": str(file.digest),
            "source": str(file.place),
            "licence": file.licence,
            "purpose": file.purpose,
            "folder": file.folder,
        }
        for file in KNOWN_FILES
    ]
    lines = []
    for file in KNOWN_FILES:
        lines += [
            f"{file.name} (about {file.size_text}, {file.licence})",
            f"  {file.purpose}",
            f"  from {file.place}; ComfyUI: models/{file.folder}",
        ]
    return Outcome(DONE, lines, {"command": "download", "files": files})
