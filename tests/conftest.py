"""Fixtures that several tests share, and how two workers share the tests."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch

from osediff_core import OneStepGenerator

sys.path.insert(0, str(Path(__file__).parent))  # for `mini_models`
sys.path.insert(0, str(Path(__file__).parent / "golden"))  # for `golden_cases`
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # for `headless`

from golden_cases import reference_folder

if TYPE_CHECKING:
    from mini_models.networks import MiniModel

COSTLY = ("server", "pack")  # session fixtures that only one worker is to make


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """One thread for each worker and for what it starts: they would only wait for each other's threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a worker: tests of one costly fixture, or else of one file, stay together; those that take long come first."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return

    def group(item: pytest.Item) -> str:
        return next((name for name in COSTLY if name in item.fixturenames), item.nodeid.partition("::")[0])

    slow = {group(item) for item in items if item.get_closest_marker("slow")}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: (group(item) not in COSTLY, group(item) not in slow, group(item)))


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> MiniModel:
    """The miniature on disk (34 MB). Tests must not change its files."""
    from mini_models.golden import write_mini

    return write_mini(tmp_path_factory.mktemp("mini"))


@pytest.fixture(scope="session")
def mini_generator(mini: MiniModel) -> OneStepGenerator:
    """The miniature loaded in fp32 on the CPU. Tests that change it must change it back."""
    return OneStepGenerator.load(mini.base, mini.weights, dtype="fp32", device="cpu")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of larger reference data; tests that need it are skipped where it is not."""
    folder = reference_folder()
    if folder is None:
        pytest.skip("the larger reference data are not here (set OSEDIFF_REFERENCE to their folder)")
    return folder


@pytest.fixture(scope="session")
def import_reference(reference_dir: Path) -> Callable[[str], ModuleType]:
    """name -> that Python file of the reference data as a module; skips where it is not."""

    def load(name: str) -> ModuleType:
        path = reference_dir / "golden" / f"{name}.py"
        if not path.is_file():
            pytest.skip(f"the reference data lack {path.name}")
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            spec.loader.exec_module(module)
        finally:
            sys.dont_write_bytecode = before
        return module

    return load


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The folder of a ComfyUI that this Python can run; tests that need one are skipped where there is none."""
    from headless import FetchError
    from headless.demo import installed_comfyui

    try:
        return installed_comfyui()
    except FetchError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _no_random_surprises() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _children_hear_ctrl_c():
    """A shell that starts pytest in the background makes it, and so the processes that it starts, deaf to SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def one_thread():
    """Such small tensors gain nothing by threads, and on a busy machine they wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
