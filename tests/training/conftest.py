import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))  # for `tagger_models`
sys.path.insert(0, str(Path(__file__).parent))  # for `training_models`

from training_models import write_base


@pytest.fixture(scope="session")
def mini_base(tmp_path_factory):
    """A mini base of SD 2.1's layout as a diffusers folder."""
    return write_base(tmp_path_factory.mktemp("mini") / "base")
