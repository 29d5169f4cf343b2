"""What tests of the cluster share: pictures of all kinds, and the command in a process of its own."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

sys.path.insert(0, str(Path(__file__).parent))  # for `cluster_pictures`

from cluster_pictures import ROOT, noise

# Read by Python at its start, in every process of a run: machines that die of some pictures, and slow ones.
SITE = """
import os, pathlib, time
def read_bytes(self, read=pathlib.Path.read_bytes):
    time.sleep(float(os.environ.get("TEST_PAUSE", 0)))
    if self.name == "poison.png":
        os._exit(7)
    if self.name == "exit.png":
        raise SystemExit(3)
    if self.name == "memory.png":
        raise MemoryError
    return read(self)
pathlib.Path.read_bytes = read_bytes
"""


@pytest.fixture
def small(tmp_path_factory):
    """A base with weights of its own, loaded in no time."""
    import torch
    from mini_models.checkpoints import official_content
    from mini_models.networks import tiny_text, tiny_unet, tiny_vae, write_base

    folder = tmp_path_factory.mktemp("small")
    unet, vae = tiny_unet(in_channels=8, out_channels=8), tiny_vae((16, 32, 32), latent_channels=8)
    torch.save(official_content(unet, vae), folder / "osediff.pkl")
    base = write_base(folder / "base", unet, vae, tiny_text())
    return ["--base", str(base), "--weights", str(folder / "osediff.pkl"), "--scale", "2"]


@pytest.fixture
def mixed(tmp_path):
    """Pictures of every kind and name, two of which are none."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for number, mode in enumerate(("L", "LA", "RGBA", "P", "1")):
        noise(number, mode=mode).save(folder / f"{mode}.png")
    deep = np.random.default_rng(5).integers(0, 2**16, (32, 40), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    noise(6).save(folder / "turned.jpg", exif=turned)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise(7).save(folder / "_profile.tif", icc_profile=profile)
    for number, name in enumerate(("a#b %20.png", "a?b.png", "übergröße.png", "sub/L.png"), 8):
        noise(number).save(folder / name)
    whole = io.BytesIO()
    noise(12).save(whole, "PNG")
    (folder / "cut.png").write_bytes(whole.getvalue()[:200])
    (folder / "empty.png").write_bytes(b"")
    return folder


@pytest.fixture
def start(tmp_path):
    """Starts `osediff upscale in -o OUT ...` in the test's folder."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SITE)

    def run(*args, **environment):
        command = [sys.executable, "-m", "osediff_core", "upscale", "in", *args]
        paths = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
        given = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([str(one) for one in command], cwd=tmp_path, env=given, **piped)

    return run
