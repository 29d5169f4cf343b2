import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `data_pictures` and `run_settings`


@pytest.fixture(autouse=True)
def _no_curves(request, monkeypatch):
    """A run ends with a report, whose curves take as long to draw as the rest of such short runs: drawn in one file."""
    if request.path.stem != "test_report":
        monkeypatch.setattr("training.run.report.draw_curves", lambda rows: b"")


@pytest.fixture(scope="session")
def mini_base(tmp_path_factory):
    """A mini base of SD 2.1's layout as a diffusers folder."""
    from mini_models.networks import write_mini_base

    return write_mini_base(tmp_path_factory.mktemp("mini") / "base")
