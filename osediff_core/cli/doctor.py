"""`osediff doctor`: versions, devices and memory of this machine, what is installed, and what is missing for what."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from typing import Any

from ..errors import first_line
from ..version import __version__
from .outcome import DONE, FAILED, Outcome

HELP = "say what this machine and installation can do, and what is missing"
EXAMPLES = """osediff doctor
osediff doctor --json
"""

_PACKAGE = "osediff"
_PURPOSES = {
    "": "everything",
    "eval": "the metrics of osediff evaluate",
    "cluster": "--engine ray, object stores and manifests",
    "train": "training",
}  # extra -> purpose
_GB = 1e9


def add_options(parser: argparse.ArgumentParser) -> None:
    """It has none of its own."""


def run(args: argparse.Namespace) -> Outcome:
    """Never fails for what is not there; the exit code is 1 where the command itself lacks something."""
    packages = _packages()
    devices, device_problem = _devices()
    problems = [
        f"{one['name']} is {one['state']}: needed for {one['purpose']}; {_install(one['extra'])}"
        for one in packages
        if one["state"] != "installed"
    ]
    if device_problem:
        problems.insert(0, device_problem)
    broken = bool(device_problem) or any(
        one["extra"] == "" and one["state"] != "installed" for one in packages
    )
    data = {
        "command": "doctor",
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "devices": devices,
        "formats": _formats(),
        "models": _models(),
        "folders": _folders(),
        "packages": packages,
        "problems": problems,
    }
    return Outcome(FAILED if broken else DONE, _lines(data), data)


def _packages() -> list[dict[str, Any]]:
    """What this package asks for, with its version here; of extras that are for users alone."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires(_PACKAGE) or ()]
    except metadata.PackageNotFoundError:  # a copy of the source that was not installed
        wanted = []
    found: dict[str, dict[str, Any]] = {}
    for extra, purpose in _PURPOSES.items():
        for requirement in wanted:
            marker = requirement.marker
            if requirement.name in found or (marker is None) != (extra == ""):
                continue
            if marker is not None and not marker.evaluate({"extra": extra}):
                continue
            try:
                version = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                version = None
            fits = version is not None and requirement.specifier.contains(version, prereleases=True)
            wrong = "missing" if version is None else f"of a version that is not {requirement.specifier}"
            found[requirement.name] = {
                "name": requirement.name,
                "version": version,
                "state": "installed" if fits else wrong,
                "extra": extra,
                "purpose": purpose,
            }
    return list(found.values())


def _install(extra: str) -> str:
    return f"pip install '{_PACKAGE}[{extra}]'" if extra else f"pip install --upgrade {_PACKAGE}"


def _devices() -> tuple[list[dict[str, Any]], str | None]:
    """Every device with its memory in bytes, the one of "auto" first; and why there are none."""
    try:
        import torch

        from ..runtime.device import parse_device, parse_dtype
        from ..runtime.memory import free_memory

        chosen = parse_device("auto")
        found = [torch.device("cpu")]
        if chosen.type != "cpu":
            backend = getattr(torch, chosen.type)
            count = backend.device_count() if hasattr(backend, "device_count") else 1
            found = [*(torch.device(chosen.type, index) for index in range(count)), *found]
        return [
            {
                "name": str(device),
                "description": _called(device),
                "free_memory": free_memory(device),
                "dtype": str(parse_dtype("auto", device)).removeprefix("torch."),
                "auto": device.type == chosen.type and index == 0,
            }
            for index, device in enumerate(found)
        ], None
    except (
        Exception
    ) as error:  # a broken installation raises anything, and is what this command is asked about
        return [], f"PyTorch cannot be used ({type(error).__name__}: {first_line(error)}); install it again"


def _called(device: Any) -> str:  # noqa: ANN401 - torch's, which may be missing
    import psutil
    import torch

    if device.type == "cpu":
        total = psutil.virtual_memory().total / _GB
        return (
            f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {total:.1f} GB"
        )
    backend = getattr(torch, device.type)
    named = backend.get_device_name(device) if hasattr(backend, "get_device_name") else device.type
    if not hasattr(backend, "get_device_properties"):
        return named
    return f"{named}, {backend.get_device_properties(device).total_memory / _GB:.1f} GB"


def _formats() -> dict[str, bool]:
    """Parts of Pillow that depend on how it was built."""
    try:
        from PIL import features
    except Exception:
        return {}
    parts = {"webp": "webp", "avif": "avif", "jpeg 2000": "jpg_2000", "colour profiles": "littlecms2"}
    return {name: bool(features.check(part)) for name, part in parts.items()}


def _models() -> dict[str, bool]:
    from ..backends.find_base import PACKAGED

    return {name: (folder / "unet" / "config.json").is_file() for name, folder in PACKAGED.items()}


def _folders() -> dict[str, dict[str, Any]]:
    """Where downloads and intermediate results go, with the free bytes there."""
    temporary = tempfile.gettempdir()
    found = {"temporary": temporary}
    try:
        from huggingface_hub import constants

        found["hub_cache"] = str(constants.HF_HUB_CACHE)
    except Exception:
        pass
    return {name: {"path": path, "free": _free(path)} for name, path in found.items()}


def _free(path: str) -> int | None:
    while path and not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _lines(data: dict[str, Any]) -> list[str]:
    lines = [
        f"osediff {__version__}, Python {data['python']} ({data['executable']})",
        data["platform"],
        "devices:",
    ]
    for one in data["devices"]:
        chosen = "; auto" if one["auto"] else ""
        free = one["free_memory"] / _GB
        lines.append(f"  {one['name']}: {one['description']}, {free:.1f} GB free; {one['dtype']}{chosen}")
    lines += ["picture formats:", *(f"  {name}: {_yes(there)}" for name, there in data["formats"].items())]
    lines += ["models:", *(f"  {name}: {_yes(there)}" for name, there in data["models"].items())]
    lines.append("folders:")
    for name, one in data["folders"].items():
        free = "unknown" if one["free"] is None else f"{one['free'] / _GB:.1f} GB"
        lines.append(f"  {name}: {one['path']}, {free} free")
    lines.append("packages:")
    lines += [f"  {one['name']} {one['version']}" for one in data["packages"] if one["version"]]
    if data["problems"]:
        lines += ["missing:", *(f"  {problem}" for problem in data["problems"])]
    return lines


def _yes(there: bool) -> str:
    return "yes" if there else "no"
