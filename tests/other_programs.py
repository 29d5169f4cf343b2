"""Programs that others wrote, in environments of their own: made once, in the cache, from the package registries."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from headless import cache_folder

JAVASCRIPT_PACKAGES = ("@saintno/comfyui-sdk@0.3.1",)


def python_programs(name: str, packages: tuple[str, ...]) -> Path:
    """The folder of the programs of an environment with these packages of PyPI; skips where they cannot be had."""
    folder = cache_folder() / f"{name}-py{sys.version_info.major}{sys.version_info.minor}"
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")

    def make() -> None:
        venv.create(folder, with_pip=True)
        _install([programs / "python", "-m", "pip", "install", "--quiet", *packages], packages)

    _once(folder, packages, make)
    return programs


def javascript_programs() -> Path:
    """A folder whose programs find these packages of npm; skips where there is no Node."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} on this system")
    folder = cache_folder() / "clients-node"

    def make() -> None:
        folder.mkdir(parents=True)
        # no scripts: what packages want to run while they are installed is not needed
        line = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        _install([*line, "--prefix", folder, *JAVASCRIPT_PACKAGES], JAVASCRIPT_PACKAGES)

    _once(folder, JAVASCRIPT_PACKAGES, make)
    return folder


def run(folder: Path, *line: object, timeout: int = 300, may_fail: bool = False) -> str:
    """What a program says that may write to its home, `folder`, and must not report to its makers."""
    environment = {
        **os.environ,
        "HOME": str(folder),
        "DO_NOT_TRACK": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONUTF8": "1",
    }
    done = subprocess.run(
        line, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=timeout
    )
    assert may_fail or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _once(folder: Path, packages: tuple[str, ...], make: object) -> None:
    complete = folder / "complete.txt"
    if not complete.is_file() or complete.read_text() != "\n".join(packages):
        shutil.rmtree(folder, ignore_errors=True)
        make()
        complete.write_text("\n".join(packages))


def _install(line: list[object], packages: tuple[str, ...]) -> None:
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        pytest.skip(f"{', '.join(packages)} could not be installed: {said}")
