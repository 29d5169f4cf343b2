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

from cluster_pictures import ROOT, Bucket, noise

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

if os.environ.get("TEST_INSIDE"):  # also for pictures inside of files
    import importlib.util, sys
    class Found:
        def find_spec(self, name, path=None, target=None):
            if name != "osediff_core.images.files":
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            run = spec.loader.exec_module
            def exec_module(module):
                run(module)
                decode = module.decode_image
                def decode_image(data, name):
                    time.sleep(float(os.environ.get("TEST_PAUSE", 0)))
                    if data == b"poison":
                        os._exit(7)
                    return decode(data, name)
                module.decode_image = decode_image
            spec.loader.exec_module = exec_module
            return spec
    sys.meta_path.insert(0, Found())
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
    """Starts `osediff upscale SOURCE ...` in the test's folder."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SITE)

    def run(*args, source="in", command="upscale", before=(), **environment):
        command = [*before, sys.executable, "-m", "osediff_core", command, source, *args]
        paths = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
        given = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([str(one) for one in command], cwd=tmp_path, env=given, **piped)

    return run


@pytest.fixture
def bucket(monkeypatch):
    """An S3 on the loopback interface, and an empty bucket in it; all processes of the test find it."""
    pytest.importorskip("moto", reason="moto is not installed: pip install -e '.[test]'")
    import boto3
    from moto.server import ThreadedMotoServer

    from osediff_core.batch import places

    places._system.cache_clear()  # which knows the server of another test

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {
        "ENDPOINT_URL": f"http://{host}:{port}",
        "ACCESS_KEY_ID": "tester",
        "DEFAULT_REGION": "us-east-1",
    }
    for name, value in (
        given | {"SECRET_ACCESS_KEY": "a-secret-of-the-test", "EC2_METADATA_DISABLED": "true"}
    ).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="pictures")
    yield Bucket(client, "pictures")
    server.stop()
