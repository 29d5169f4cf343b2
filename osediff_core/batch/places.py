"""Places of pictures: files of this machine, and objects of S3, GCS and whatever else pyarrow or fsspec reach."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from types import ModuleType
from typing import Any, BinaryIO
from urllib.parse import urlparse
from urllib.request import url2pathname

from ..atomic import replacing
from ..errors import DiskFull, ImageError, OptionError, OSEDiffError, first_line, writing
from ..interrupts import pass_on

STREAM = Path("-")  # standard input as a source, standard output as an output

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://(.*)", re.IGNORECASE | re.DOTALL)
_QUERY = re.compile(r"\?[a-z_]+=[^/?]*$")  # what a URI of an object store asks for; a key may hold a ?, too
_WEB = ("http", "https")
# an object is there when it is whole, and not before
_STORES = ("s3", "gs", "gcs", "abfs", "abfss", "az", "hf", *_WEB)
_GCS_PATIENCE = "retry_limit_seconds=30"  # of its own it tries for a quarter of an hour
_CHUNK = 2**22  # bytes
_NO_MATTER_WHICH = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH")


@dataclass(frozen=True)
class Remote:
    """An object or a prefix. root: as s3://bucket; path: below it; query: as ?region=eu-west-1, for pyarrow."""

    root: str
    path: str = ""
    query: str = ""

    def __str__(self) -> str:
        return self.root + (f"/{self.path}" if self.path else "") + self.query

    def __truediv__(self, below: PurePath | str) -> Remote:
        more = below if isinstance(below, str) else below.as_posix()
        return replace(self, path=f"{self.path}/{more}" if self.path else more)

    @property
    def name(self) -> str:
        """Its last part."""
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """That of the name, with the point."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Remote:
        """What it lies in."""
        return replace(self, path=self.path.rpartition("/")[0])


Place = Path | Remote


def place_of(text: str) -> Place:
    """A path, or a URI of whatever scheme. Raises OptionError for one that holds a secret."""
    found = _SCHEME.match(text)
    if found is None:
        return Path(text)
    scheme, rest = found[1].lower(), found[2]
    if scheme == "file":
        return Path(url2pathname(urlparse(text).path))
    query = "" if scheme in _WEB else (_QUERY.search(rest) or [""])[0]
    host, _, path = rest.removesuffix(query).partition("/")
    if ":" in host.rpartition("@")[0]:
        raise OptionError(
            f"The URI {scheme}://…@{host.rpartition('@')[2]} holds a secret, which logs and records would show; leave "
            "it to the environment (AWS_SECRET_ACCESS_KEY and the like) or to the machine's role."
        )
    if not host:
        raise OptionError(f"{text} names no bucket and no host; write {scheme}://NAME/….")
    return Remote(f"{scheme}://{host}", path.strip("/"), query)


def read_bytes(place: Place) -> bytes:
    """The bytes of a picture's file. Raises ImageError."""
    from ..images import read_file

    if isinstance(place, Path):
        return read_file(place)
    with _reading(place), _open(place) as (system, path), system.open_input_file(path) as file:
        return file.read()


def write_bytes(place: Place, data: bytes) -> None:
    """Writes a file, whole or not at all. Raises ImageError, DiskFull."""
    from ..images import write_file

    if isinstance(place, Path):
        write_file(place, data)
        return
    with _writing(place), _whole(place) as (system, path):
        stream = system.open_output_stream(path)
        stream.write(data)
        stream.close()  # not by `with`, which would also close, and so publish, what an error has cut short


@contextmanager
def local_copy(place: Place) -> Iterator[Path]:
    """A file with the same bytes on this machine: the place itself, or a temporary one. Raises ImageError."""
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="osediff-") as folder:
        copy = Path(folder, "copy" + place.suffix)
        with _reading(place), _open(place) as (system, path), system.open_input_stream(path) as stream:
            with copy.open("wb") as file:
                while chunk := stream.read(_CHUNK):
                    file.write(chunk)
        yield copy


@contextmanager
def written_whole(place: Place) -> Iterator[BinaryIO]:
    """A temporary file, which becomes that of the place when the block has come to its end. Raises ImageError,
    DiskFull.
    """
    if isinstance(place, Path):
        with writing(ImageError, f"{place} cannot be written", "choose another output"):
            place.parent.mkdir(parents=True, exist_ok=True)
            with replacing(place) as file:
                yield file
        return
    with tempfile.TemporaryFile(prefix="osediff-") as file:
        yield file
        file.seek(0)
        with _writing(place), _whole(place) as (system, path):
            stream = system.open_output_stream(path)
            while chunk := file.read(_CHUNK):
                stream.write(chunk)
            stream.close()


def kind_of(place: Remote) -> str | None:
    """ "file", "folder", or None where there is nothing. Raises ImageError."""
    kinds = _fs(place.root).FileType
    with _reading(place), _open(place) as (system, path):
        found = system.get_file_info(path).type
    return {kinds.File: "file", kinds.Directory: "folder"}.get(found)


def files_below(place: Remote, recursive: bool = True) -> list[tuple[Remote, int]]:
    """Every object and its bytes, by name. Raises ImageError."""
    fs = _fs(place.root)
    with _reading(place), _open(place) as (system, path):
        found = system.get_file_info(fs.FileSelector(path, recursive=recursive, allow_not_found=True))
        start = path.rstrip("/") + "/"
        named = sorted((one.path, one.size or 0) for one in found if one.type == fs.FileType.File)
        return [(place / name.removeprefix(start), size) for name, size in named]


def there(places: Iterable[Remote]) -> set[Remote]:
    """Which of them hold something, found by one listing of what they lie in. Raises ImageError."""
    wanted = set(places)
    tops: dict[tuple[str, str], list[Remote]] = {}
    for one in wanted:
        tops.setdefault((one.root, one.query), []).append(one)
    found: set[Remote] = set()
    for among in tops.values():
        if len(among) == 1:
            with _reading(among[0]), _open(among[0]) as (system, path):
                if (system.get_file_info(path).size or 0) > 0:
                    found.add(among[0])
            continue
        common = os.path.commonpath([f"/{one.parent.path}" for one in among]).strip("/")
        listed = files_below(replace(among[0], path=common))
        found |= {one for one, size in listed if size and one in wanted}
    return found


def check_reachable(place: Remote) -> None:
    """Raises ImageError, OptionError where nothing can be there: no such bucket, no rights, no network."""
    top = replace(place, path="")
    if place.root.partition(":")[0] in _STORES and kind_of(top) is None:
        raise ImageError(f"{top} does not exist; check the address.")


@contextmanager
def _open(place: Remote) -> Iterator[tuple[Any, str]]:
    """The file system and the path in it."""
    system, base = _system(place.root, place.query)
    yield system, f"{base}/{place.path}" if place.path else base


@contextmanager
def _whole(place: Remote) -> Iterator[tuple[Any, str]]:
    """As `_open`, for what is written inside: elsewhere than in an object store it is renamed at the end."""
    with _open(place) as (system, path):
        if place.root.partition(":")[0] in _STORES:
            yield system, path
            return
        folder, _, name = path.rpartition("/")
        if folder:
            system.create_dir(folder, recursive=True)
        passing = f"{folder}/.{name[:40]}.{secrets.token_hex(4)}.tmp"
        try:
            yield system, passing
            if _is_there(system, path):
                system.delete_file(path)  # some refuse to rename over a file
            system.move(passing, path)
        except BaseException:
            if _is_there(system, passing):
                system.delete_file(passing)
            raise


def _is_there(system: Any, path: str) -> bool:  # noqa: ANN401 - pyarrow's
    return system.get_file_info(path).type != _fs(path).FileType.NotFound


def _fs(user: str) -> ModuleType:
    """pyarrow's module of file systems. Raises OptionError, which says what `user` lacks."""
    try:
        from pyarrow import fs
    except ImportError as error:
        raise OptionError(
            f"{user} needs pyarrow ({first_line(error)}); install it: pip install 'osediff[cluster]'."
        ) from error
    return fs


@lru_cache(maxsize=64)
def _system(root: str, query: str) -> tuple[Any, str]:
    """(pyarrow's file system, the root's path in it); fsspec's behind it for schemes that pyarrow does not know.

    Made where it is used, from the environment: a file system would carry its keys along to other machines.
    """
    fs = _fs(root)
    if root.startswith(("gs:", "gcs:")) and "retry_limit_seconds" not in query:
        query = f"{query}&{_GCS_PATIENCE}" if query else f"?{_GCS_PATIENCE}"
    try:
        system, base = fs.FileSystem.from_uri(root + query)
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        if "Unrecognized filesystem" not in str(error):
            raise
        from fsspec.core import url_to_fs

        other, base = url_to_fs(root)
        system = fs.PyFileSystem(fs.FSSpecHandler(other))
    return system, base.rstrip("/")


@contextmanager
def _reading(place: Remote) -> Iterator[None]:
    try:
        yield
    except OSEDiffError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{place} does not exist ({_why(error)}); check the address.") from error
    except Exception as error:  # fsspec's packages have each their own
        pass_on(error)
        raise ImageError(f"{place} cannot be read ({_why(error)}); {_remedy(error)}.") from error


@contextmanager
def _writing(place: Remote) -> Iterator[None]:
    try:
        yield
    except OSEDiffError:
        raise
    except Exception as error:  # as when reading
        pass_on(error)
        kind = DiskFull if any(word in str(error) for word in _NO_MATTER_WHICH) else ImageError
        raise kind(f"{place} cannot be written ({_why(error)}); {_remedy(error)}.") from error


def _why(error: Exception) -> str:
    """Of what pyarrow says the part for people."""
    text = first_line(error)
    google = re.search(r"google::cloud.*? with a last message of (.*?)[.(]", text)
    if google is not None:
        return google[1]
    found = re.search(r"AWS Error (\w+)[^:]*: (.*?)(?:; Details: (.*))?$", text)
    if found is None:
        return text
    said = re.sub(r" \(Request ID: .*?\)", "", found[3] or found[2])
    return f"{found[1].lower().replace('_', ' ')}: {said}"


def _remedy(error: Exception) -> str:
    text = str(error)
    if isinstance(error, ImportError):
        return "install what it asks for"
    if "NETWORK_CONNECTION" in text:
        return "check the network and the address"
    if any(word in text for word in ("ACCESS_DENIED", "redential", "access token", "SIGNATURE", "KEY_ID")):
        return "check the credentials and what they allow"
    return "check the address and the credentials"
