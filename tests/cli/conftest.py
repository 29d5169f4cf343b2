"""A model small enough to be loaded by every test: random, but of the real classes."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import osediff_core
from osediff_core.cli import main as cli

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))  # for its helper module sd_models


@dataclass(frozen=True)
class SmallModel:
    """base: a diffusers folder with f = 4 and 8 latent channels, unlike SD's. weights: an official .pkl."""

    base: Path
    weights: Path


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> SmallModel:
    from sd_models import official_content, tiny_unet, tiny_vae
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("small")
    configs = Path(osediff_core.__file__).parent / "backends" / "sd21_base"
    for part in ("scheduler", "tokenizer"):
        shutil.copytree(configs / part, folder / "base" / part)
    unet = tiny_unet(in_channels=8, out_channels=8)
    vae = tiny_vae(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=8,
    )
    torch.manual_seed(2)
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    )
    for name, module in {"unet": unet, "vae": vae, "text_encoder": text}.items():
        module.save_pretrained(folder / "base" / name)
    torch.save(official_content(unet, vae), folder / "osediff.pkl")
    return SmallModel(folder / "base", folder / "osediff.pkl")


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
