"""Check of training pictures: what is there, what is broken, and published archives made readable in any order.

    python -m training.data.check SOURCE... [--journal FILE] [--expect 84991] [--smallest 512]
    python -m training.data.check --unzip data/LSDIR/shards data/LSDIR/shard-*.tar.gz

SOURCE is the path of a source, as in the run's configuration. Every picture is decoded; what was found is in the
journal, line by line, so the same command goes on after a stop. --unzip writes each .tar.gz, which can only be read
from its beginning, as the .tar that the trainer takes; those that are there already are left.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from osediff_core.cli.entry import run_main
from osediff_core.errors import explained, first_line

from .config import SourceConfig
from .errors import DataError
from .pictures import BrokenPicture, decode
from .shards import Shards
from .sources import Source, open_source

log = logging.getLogger("training.data.check")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 all well, 1 something is broken or missing, 2 a wrong option."""
    parser = argparse.ArgumentParser(
        prog="python -m training.data.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="folder, .txt list, .tar shards; .tar.gz"
    )
    parser.add_argument("--journal", type=Path, default=Path("checked.jsonl"), help="default: checked.jsonl")
    parser.add_argument("--expect", type=int, help="how many pictures there must be, all together")
    parser.add_argument(
        "--smallest", type=int, default=512, help="px; shorter sides are counted (default: 512)"
    )
    parser.add_argument(
        "--unzip", type=Path, metavar="FOLDER", help="write the .tar.gz there as .tar instead"
    )
    args = parser.parse_args(arguments)

    def work() -> int:
        if args.unzip:
            return unzip([Path(source) for source in args.sources], args.unzip)
        sources = [open_source(SourceConfig(path)) for path in args.sources]
        return check(sources, args.journal, args.smallest, args.expect)

    return run_main(work, log, interrupted="stopped; the same command goes on from here")


def check(sources: Sequence[Source], journal: Path, smallest: int, expect: int | None = None) -> int:
    """Decode every picture that the journal does not know; 0 if all are whole and as many as expected, else 1.

    Raises DataError where the journal cannot be written or is none.
    """
    found = _read(journal)
    with (
        explained(DataError, f"The journal {journal} cannot be written", "choose another --journal"),
        journal.open("a", encoding="utf-8") as file,
    ):
        for source in sources:
            for name, reason in source.skipped.items():
                found[name] = {"name": name, "fault": reason}
            for index in tqdm(range(len(source)), disable=None, unit="picture"):
                name = source.name(index)
                if name not in found:
                    found[name] = _looked_at(source, index)
                    file.write(json.dumps(found[name]) + "\n")
                    file.flush()
    broken = {name: row["fault"] for name, row in found.items() if "fault" in row}
    small = sum(min(row["size"]) < smallest for row in found.values() if "size" in row)
    whole = len(found) - len(broken)
    for name, fault in broken.items():
        log.warning("%s: %s", name, fault)
    log.info(
        "%d whole pictures, %d with a side below %d px, %d broken or missing",
        whole,
        small,
        smallest,
        len(broken),
    )
    if expect is not None and whole != expect:
        log.warning("%d pictures were expected: %+d", expect, whole - expect)
    return int(bool(broken) or (expect is not None and whole != expect))


def _looked_at(source: Source, index: int) -> dict:
    name = source.name(index)
    try:
        return {"name": name, "size": list(decode(source.read(index)).size)}
    except (BrokenPicture, OSError) as error:
        return {"name": name, "fault": first_line(error)}


def _read(journal: Path) -> dict[str, dict]:
    """What earlier runs found; a torn last line is left out, and cut off."""
    if not journal.exists():
        return {}
    text = journal.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        journal.write_text(whole, encoding="utf-8")
    try:
        return {row["name"]: row for row in map(json.loads, whole.splitlines())}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{journal} is no journal of checked pictures; choose another --journal.") from error


def unzip(archives: Sequence[Path], folder: Path) -> int:
    """Write each NAME.tar.gz as folder/NAME.tar, whole or not at all; 0 if all are there, 1 if some are broken.

    Raises DataError where the folder cannot be written.
    """
    broken = 0
    with explained(DataError, f"{folder} cannot be written", "free space or choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
    for archive in tqdm(archives, disable=None, unit="archive"):
        target = folder / archive.name.removesuffix(".gz")
        if target.exists():
            continue
        part = target.with_name(f".{target.name}.part")
        try:
            with gzip.open(archive) as packed, part.open("wb") as file:
                shutil.copyfileobj(packed, file, 2**22)
        except (EOFError, zlib.error, gzip.BadGzipFile, FileNotFoundError) as error:
            broken += 1
            part.unlink(missing_ok=True)
            log.warning("%s is no whole .tar.gz (%s); download it again", archive, first_line(error))
            continue
        except OSError as error:
            part.unlink(missing_ok=True)
            raise DataError(f"{target} cannot be written ({error.strerror}); free space.") from error
        part.rename(target)
        log.info("%s: %d pictures", target, len(Shards([target])))
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
