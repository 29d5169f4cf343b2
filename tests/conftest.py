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

# folders whose tests share what takes long to make: a server, ComfyUI in this process
ONE_WORKER = ("tests/server/", "tests/nodes/")


def _scope(nodeid: str) -> str:
    """What of the tests stays together in one worker: such a folder, else a file."""
    path = nodeid.partition("::")[0]
    return next((folder for folder in ONE_WORKER if path.startswith(folder)), path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """One thread for each worker and for what it starts: they would only wait for each other's threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """By scope. (xdist's own groups do not work with pytest 9.2: it appends them to ids, which are fixed there.)"""
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    config.option.loadscopereorder = False  # the order is that of the next function
    return ByScope(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a worker: what takes long comes first, so that the workers end together."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {_scope(item.nodeid) for item in items if item.get_closest_marker("slow")}

        def rank(item: pytest.Item) -> tuple[bool, bool, str]:
            scope = _scope(item.nodeid)
            return scope not in ONE_WORKER, scope not in slow, scope

        items.sort(key=rank)


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
def peers(reference_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other methods' files in their official formats, made once for all workers. Tests must not change them."""
    from filelock import FileLock
    from golden_cases import write_peers

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder, done = shared / "peers", shared / "peers.done"
    with FileLock(shared / "peers.lock"):
        if not done.exists():
            folder.mkdir(exist_ok=True)
            write_peers(reference_dir, folder)
            done.touch()
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
