"""`osediff download`: published weights, fetched when asked for by name."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DownloadError, OptionError
from .outcome import DONE, FAILED, Outcome

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..weights.published import KnownFile

logger = logging.getLogger(__name__)

HELP = "fetch published weights"


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
    results = [_fetch(file, Path(args.to), args.debug) for file in files]
    failed = any(result["status"] == "failed" for result in results)
    lines = [f"{r['name']}: {r['path'] or 'failed'}" for r in results]
    data = {"command": "download", "results": results}
    return Outcome(FAILED if failed else DONE, "\n".join(lines), data)


def _known(name: str) -> KnownFile:
    from ..weights.published import find

    try:
        return find(name)
    except DownloadError as error:
        raise OptionError(str(error)) from error


def _fetch(file: KnownFile, folder: Path, debug: bool) -> dict[str, Any]:
    """The JSON record of one file."""
    from tqdm import tqdm

    from ..weights.download import download

    result: dict[str, Any] = {
        "name": file.name,
        "path": None,
        "status": "failed",
        "bytes": None,
        "error": None,
    }
    # disable=None: no bar where stderr is a file or a pipe
    with tqdm(desc=file.name, unit="B", unit_scale=True, disable=None) as bar:
        try:
            path = download(file, folder, progress=_showing(bar))
        except DownloadError as error:
            logger.error("%s", error, exc_info=debug)
            return {**result, "error": str(error)}
    return {**result, "path": str(path), "status": "ready", "bytes": path.stat().st_size}


def _showing(bar: tqdm) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
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
    return Outcome(DONE, "\n".join(lines), {"command": "download", "files": files})
