"""Fetching of published weights, on request only.

What arrives is written to a `.part` file, which stays when the fetching stops and is gone on with next time. It gets
the file's own name after its hash was found to be the published one.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import logging
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from io import FileIO
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import DiskFull, DownloadError, first_line
from ..interrupts import pass_on
from ..version import __version__
from .digest import digest_steps
from .published import HubPlace, KnownFile, find

logger = logging.getLogger(__name__)

_BLOCK = 1 << 18
_TIMEOUT = 30  # seconds without a byte
_PAUSE = 1  # seconds before a broken connection is tried again

# (done, total) in bytes. Generators yield them, so that what the receiver raises is not taken for their own failure.
_Steps = Generator[tuple[int, int], None, None]


def download(
    name: str | KnownFile,
    folder: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Fetch a published file into `folder`, which is made if missing; returns its path.

    If it is there already, only its hash is checked. A file of that name with another content is left alone.
    progress: called often with (done, total) in bytes, also while the hash is computed, when both are equal. It may
    raise to stop; the error reaches the caller as it is.
    Raises DownloadError: unknown name, no network, refused by the server, offline switch set, disk full, folder not
    writable, wrong hash.
    """
    file = name if isinstance(name, KnownFile) else find(name)
    folder = Path(os.path.expanduser(folder))
    with contextlib.closing(_obtain(file, folder)) as steps:
        for done, total in steps:
            if progress is not None:
                progress(done, total)
    return folder / file.name


def _obtain(file: KnownFile, folder: Path) -> _Steps:
    """Everything that `download` does but telling its caller."""
    target = folder / file.name
    try:
        if target.exists():
            yield from _check_present(file, target)
            return
        _refuse_offline(file)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{file.name}.{file.digest.value[:8]}.part"
        part.touch()
        try:
            yield from _fetch(file, part)
            os.replace(part, target)
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(
                f"The disk of {folder} is full; make room there and try again: what has arrived is kept."
            ) from error
        reason = error.strerror or first_line(error)
        raise DownloadError(
            f"{file.name} cannot be read or stored in {folder} ({reason}); choose another folder."
        ) from error


def _check_present(file: KnownFile, target: Path) -> _Steps:
    found = yield from digest_steps(target, file.digest.kind)
    if found != file.digest:
        raise DownloadError(
            f"{target} is there, but is not the published file (expected {file.digest}, found {found}); move it "
            "away or rename it, or choose another folder."
        )


def _refuse_offline(file: KnownFile) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise DownloadError(
            f"{file.name} is not there, and HF_HUB_OFFLINE forbids to download it; unset it, or get the file by "
            f"other means from {file.place}."
        )


def _fetch(file: KnownFile, part: Path) -> _Steps:
    """Complete `part`, and throw it away if it is not the published file."""
    _check_space(file, part.parent, file.size - part.stat().st_size)
    yield from _transfer(file, part)
    found = yield from digest_steps(part, file.digest.kind)
    if found != file.digest:
        part.unlink()
        raise DownloadError(
            f"What {_host(file)} sent as {file.name} is not the published file (expected {file.digest}, found "
            f"{found}) and was thrown away; try again, or get the file by other means."
        )


def _check_space(file: KnownFile, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{file.name} needs {needed / 1e6:.1f} MB more in {folder}, where {free / 1e6:.1f} MB are free; make "
            "room there, or choose another folder."
        )


class _Broken(Exception):
    """The connection could not be made or did not last; asking again may help."""


def _transfer(file: KnownFile, part: Path) -> _Steps:
    """Append to `part` what is missing, through broken connections as long as each brings something."""
    while True:
        before = part.stat().st_size
        try:
            yield from _receive(file, part)
            return
        except _Broken as broken:
            if part.stat().st_size <= before:
                raise DownloadError(
                    f"{file.name} could not be fetched from {_host(file)} ({broken}); check the connection and try "
                    "again: what has arrived is kept."
                ) from broken
            logger.info("%s: the connection broke (%s); asking for the rest", file.name, broken)
            time.sleep(_PAUSE)


def _receive(file: KnownFile, part: Path) -> _Steps:
    """What one request brings."""
    done = part.stat().st_size
    response = _ask(file, done)
    if response is None:
        return
    # unbuffered: nothing is left to be written when it is closed, which would fail again on a full disk
    with response, part.open("ab", buffering=0) as out:
        if done and response.status != http.client.PARTIAL_CONTENT:
            out.truncate(0)
            done = 0
        promised = None if response.length is None else done + response.length
        if promised is not None:
            _check_space(file, part.parent, promised - done)
        total = promised or file.size
        yield done, total
        for block in _blocks(response):
            _write(out, block)
            done += len(block)
            yield done, max(done, total)
        os.fsync(out.fileno())  # on the disk before it gets its name
    if promised is not None and done < promised:
        raise _Broken("it was closed early")


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            block = response.read(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(first_line(error)) from error
        if not block:
            return
        yield block


def _write(out: FileIO, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[out.write(rest) :]


def _ask(file: KnownFile, start: int) -> http.client.HTTPResponse | None:
    """The answer to a request for the bytes from `start` on; None if there are none.

    By urllib, as the hub's own download begins anew after an interruption and hands out blocks of 10 MB, and its HTTP
    library changes with its major versions.
    """
    url, authorization = (
        _hub_address(file, file.place) if isinstance(file.place, HubPlace) else (file.place.url, "")
    )
    headers = {"User-Agent": f"osediff/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT, context=_certificates())
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None  # it has all arrived, or is something else: the hash will tell
        raise _refused(file, error.code) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(getattr(error, "reason", "") or first_line(error))) from error


def _hub_address(file: KnownFile, place: HubPlace) -> tuple[str, str]:
    """Where the hub says that the content is, and the Authorization for it ("": none, as on another host)."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(
        place.repo,
        place.filename,
        repo_type=place.repo_type,
        revision=place.revision,
        endpoint=place.endpoint,
    )
    try:
        found = get_hf_file_metadata(url)
    except Exception as error:  # the hub's own and those of whichever HTTP library it uses
        pass_on(error)
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is None:
            raise _Broken(first_line(error)) from error
        raise _refused(file, status) from error
    # The etag alone does not prove it: a mirror may have its own.
    if found.etag != file.digest.value and found.size not in (None, file.size):
        raise DownloadError(
            f"{_host(file)} now has another file than the published {file.name} ({found.size} bytes, not {file.size}); "
            "get it by other means, or look for a newer version of this package."
        )
    same_host = urlsplit(found.location).netloc == urlsplit(url).netloc
    return found.location, build_hf_headers().get("authorization", "") if same_host else ""


def _refused(file: KnownFile, status: int) -> DownloadError:
    return DownloadError(
        f"{_host(file)} answered {status} when asked for {file.name}; try again later, or get the file by other means "
        f"from {file.place}."
    )


def _host(file: KnownFile) -> str:
    """The server's name, for messages."""
    if not isinstance(file.place, HubPlace):
        return urlsplit(file.place.url).netloc
    from huggingface_hub import constants

    return urlsplit(file.place.endpoint or constants.ENDPOINT).netloc


def _certificates() -> ssl.SSLContext:
    """The system's certificate authorities and certifi's: some Pythons come without the system's."""
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context
