"""What tests of the command share: a small model, and the command as a function."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `command_cases`

from osediff_core.cli import main as cli


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A base with f = 4 and 8 latent channels, unlike SD's, and official weights for it; loaded in no time."""
    import torch
    from mini_models.checkpoints import official_content
    from mini_models.networks import MiniModel, tiny_text, tiny_unet, tiny_vae, write_base

    folder = tmp_path_factory.mktemp("small")
    unet, vae = tiny_unet(in_channels=8, out_channels=8), tiny_vae((16, 32, 32), latent_channels=8)
    torch.save(official_content(unet, vae), folder / "osediff.pkl")
    return MiniModel(write_base(folder / "base", unet, vae, tiny_text()), folder / "osediff.pkl")


@pytest.fixture
def osediff(capsys, monkeypatch, tmp_path):
    """Runs a command line in a folder of its own; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        try:
            status = cli.main([str(a) for a in args])
        except SystemExit as stop:  # --help and --version
            status = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err or "--debug" in args
        return status, out, err

    return run
