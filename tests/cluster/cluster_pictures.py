"""Pictures of the cluster's tests, and what a run left of them."""

from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
LONG = 600  # seconds; on an idle machine a run takes 20


def noise(number, size=(40, 32), mode="RGB"):
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def files_in(folder):
    """name -> bytes of every picture; what else lies there is no result."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith("_manifest")}


def ended(process):
    """(exit code, stdout, stderr)"""
    out, err = process.communicate(timeout=LONG)
    return process.returncode, out, err
