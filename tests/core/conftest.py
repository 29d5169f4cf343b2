"""What tests of this folder share; lets them import their helper modules, which importlib mode does not."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def vae():
    """On which tiles that go wrong show."""
    from tiled_vae_cases import lively_vae

    return lively_vae()
