"""What tests of several commands share: pictures, and documents that are held to the schema."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "cli.schema.json").read_text(encoding="utf-8"))


def photo(size, seed):
    """Smooth colours."""
    small = np.random.default_rng(seed).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def document(text):
    """The JSON of a command, held to the schema."""
    data = json.loads(text)
    validate(data)
    return data


def validate(data):
    jsonschema = pytest.importorskip("jsonschema", reason="the test extra is not installed anew")
    jsonschema.validate(data, SCHEMA)
