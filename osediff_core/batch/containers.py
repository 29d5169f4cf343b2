"""Files that hold many pictures: webdataset's tars and columns of parquet, which become files of the same kind.

What lies beside a picture stays: the other members of its sample, the other columns. A picture that fails is left out
together with these, as a reader would stumble over its place.
"""

from __future__ import annotations

import copy
import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ..errors import ImageError, OptionError, amount, first_line
from ..images.formats import READ_SUFFIXES
from ..interrupts import pass_on
from .job import Job, One, Task, Work, suffix_of
from .places import local_copy, written_whole
from .record import Result, failed, may_fail

_ROWS = 50  # of a table in memory at once, and in a group of the result
_IMAGE = "image"  # what data sets call the column, if there are several
_APART = 1_000_000  # between the numbers of two files' first pictures
_SAMPLE = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")  # webdataset's: key and extension, which may have points
_BLOCK = 512  # bytes of a tar; one of zeros ends it


class _Inside:
    """The pictures of one file as they are done."""

    def __init__(self, job: Job, work: Work, one: One) -> None:
        self.job, self.work, self.one = job, work, one
        self.results: list[Result] = []

    def do(self, name: str, target: str, data: bytes) -> bytes | None:
        """The picture that comes of one, None if it failed or none is to come of it."""
        made: list[bytes] = []
        output = f"{self.job.output}/{target}" if self.work.writes else None
        result = self.work.kind(f"{self.job.source}/{name}", output)
        number = self.job.number * _APART + len(self.results)
        task = Task(result.input, PurePosixPath(target), lambda: data, made.append, number)
        self.one(task, result)
        self.results.append(result)
        return made[0] if made else None


def work_inside(job: Job, work: Work, one: One, results: list[Result], writes: bool) -> None:
    """As `work_on`, of a file that holds many. One that cannot be read to its end is one failed record."""
    inside = _Inside(job, work, one)
    whole = work.kind(str(job.source), str(job.output) if work.writes else None)
    rewrite = _rewrite_tar if job.source.suffix.lower() == ".tar" else _rewrite_table
    try:
        with (
            may_fail(whole, work.done, debug=False),
            local_copy(job.source) as copied,
            written_whole(job.output) if writes else nullcontext() as output,
        ):
            rewrite(copied, output, inside)
            if not inside.results:
                raise ImageError(f"{job.source} holds no pictures; leave it out.")
    finally:
        if whole.error:
            results.append(whole)
    if not whole.error:
        results += inside.results


def _rewrite_tar(path: Path, output: BinaryIO | None, inside: _Inside) -> None:
    """Sample by sample, in the order of the file. output: None to write nothing."""
    try:
        with (
            tarfile.open(path, "r:") as archive,
            nullcontext() if output is None else tarfile.open(fileobj=output, mode="w") as made,
        ):
            for _, sample in groupby(_files_of(archive, inside.job), key=_key):
                for member, data in _sample(archive, list(sample), inside):
                    if made is not None:
                        made.addfile(member, io.BytesIO(data))
                pass_on()
    except tarfile.TarError as error:
        raise ImageError(
            f"{inside.job.source} is no whole, uncompressed tar ({first_line(error)}); copy it here again."
        ) from error


def _files_of(archive: tarfile.TarFile, job: Job) -> Iterator[tarfile.TarInfo]:
    """Raises ImageError where the file ends without the block that ends a tar, which tarfile takes for an end, too."""
    count = 0
    for count, member in enumerate(archive, 1):  # noqa: B007 - of the message
        if member.isfile() and not member.issparse():
            yield member
    file: Any = archive.fileobj
    file.seek(archive.offset)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK or any(block):
        raise ImageError(f"{job.source} ends too soon, after {amount(count, 'member')}; copy it here again.")


def _key(member: tarfile.TarInfo) -> str:
    found = _SAMPLE.fullmatch(member.name)
    return found[1] if found else f"/{member.name}"


def _sample(
    archive: tarfile.TarFile, sample: list[tarfile.TarInfo], inside: _Inside
) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The members that come of a sample's; none if one of its pictures fails."""
    names = {one.name: one.name for one in sample}
    for name in _pictures(sample):
        path = PurePosixPath(name)
        names[name] = name.removesuffix(path.suffix) + suffix_of(path, inside.job.file_format)
        if list(names.values()).count(names[name]) > 1:
            raise ImageError(
                f"{inside.job.source} has two members that would both become {names[name]}; rename one of them."
            )
    made = []
    begun = len(inside.results)
    for member in sample:
        file: Any = archive.extractfile(member)
        data: bytes | None = file.read()
        if names[member.name] != member.name or member.name in _pictures(sample):
            data = inside.do(member.name, names[member.name], data or b"")
        if data is not None:
            made.append((_called(member, names[member.name], len(data)), data))
    mine = inside.results[begun:]
    wrong = next((one for one in mine if one.error), None)
    for one in mine:
        if wrong is not None and one.error is None:
            failed(
                one, f"{one.input} is left out, as {PurePosixPath(wrong.input).name} of its sample failed."
            )
    return [] if wrong else made


def _pictures(sample: list[tarfile.TarInfo]) -> list[str]:
    """KEY.jpg and the like; where there is none, names with further points: a KEY.seg.png beside it is no photo."""
    found = {one.name: _SAMPLE.fullmatch(one.name) for one in sample}
    named = {name: f".{match[2].lower()}" for name, match in found.items() if match}
    plain = [name for name, extension in named.items() if extension in READ_SUFFIXES]
    return plain or [name for name, end in named.items() if PurePosixPath(f"a{end}").suffix in READ_SUFFIXES]


def _called(member: tarfile.TarInfo, name: str, size: int) -> tarfile.TarInfo:
    """The member under a name and of a size, which old headers of its own would overrule."""
    renamed = copy.copy(member)
    renamed.name, renamed.size = name, size
    renamed.pax_headers = {
        key: value for key, value in member.pax_headers.items() if key not in ("path", "size")
    }
    return renamed


def _rewrite_table(path: Path, output: BinaryIO | None, inside: _Inside) -> None:
    """Row by row. output: None to write nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _whole_table(inside.job):
        file = pq.ParquetFile(path)
    place = _column(file.schema_arrow, inside.job)
    field = file.schema_arrow.field(place)
    with nullcontext() if output is None else pq.ParquetWriter(output, file.schema_arrow) as made:
        row = 0
        for batch in _batches(file, inside.job):
            cells = [
                _done(cell, row + one, inside) for one, cell in enumerate(batch.column(place).to_pylist())
            ]
            row += batch.num_rows
            if made is not None:
                column = pa.array([None if cell is False else cell for cell in cells], field.type)
                table = pa.Table.from_batches([batch]).set_column(place, field, column)
                made.write_table(table.filter(pa.array([cell is not False for cell in cells])))
            pass_on()


def _batches(file: Any, job: Job) -> Iterator[Any]:  # noqa: ANN401 - pyarrow's
    with _whole_table(job):
        found = file.iter_batches(batch_size=_ROWS)
    while True:
        with _whole_table(job):
            batch = next(found, None)
        if batch is None:
            return
        yield batch


def _done(cell: Any, row: int, inside: _Inside) -> Any:  # noqa: ANN401 - of a column's type
    """The cell that comes of one: nothing of nothing, False if its picture failed."""
    packed = isinstance(cell, dict)
    data = cell.get("bytes") if packed else cell
    if data is None:
        return cell
    suffix = suffix_of(PurePosixPath(f"a{_suffix(data)}"), inside.job.file_format)
    made = inside.do(str(row), f"{row}{suffix}", data)
    if made is None:
        return False
    if not packed:
        return made
    path = cell.get("path")
    return {**cell, "bytes": made} | ({"path": str(PurePosixPath(path).with_suffix(suffix))} if path else {})


def _suffix(data: bytes) -> str:
    """Of the format that a picture's first bytes say."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return ".webp"
    return ".tif" if data[:4] in (b"II*\0", b"MM\0*") else ".png"


def _column(schema: Any, job: Job) -> int:  # noqa: ANN401 - pyarrow's
    """The place of the column of pictures: binary, or as data sets have it, a struct with `bytes`."""
    import pyarrow.types as types

    def binary(kind: Any) -> bool:  # noqa: ANN401 - pyarrow's
        if types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and binary(kind.field("bytes").type)
        return types.is_binary(kind) or types.is_large_binary(kind)

    found = [field.name for field in schema if binary(field.type)]
    wanted = job.column or (found[0] if len(found) == 1 else _IMAGE)
    if wanted not in found:
        there = f"those of bytes are {', '.join(found)}" if found else "it has none of bytes"
        raise OptionError(f"{job.source} has no column {wanted} of pictures ({there}); give one by --column.")
    return schema.get_field_index(wanted)


@contextmanager
def _whole_table(job: Job) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{job.source} cannot be read as parquet ({first_line(error)}); copy it here again."
        ) from error
