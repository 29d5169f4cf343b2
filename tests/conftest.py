"""Fixtures that several tests share: the miniature model, and where the larger reference data may lie."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import torch

from osediff_core import OneStepGenerator

# Tests import the helper modules that lie beside the reference numbers by name.
sys.path.insert(0, str(Path(__file__).parent / "golden"))
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # for `headless`

from golden_cases import reference_folder
from mini_weights import MiniModel, write_mini


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> MiniModel:
    """The miniature on disk (34 MB). Tests must not change its files."""
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
