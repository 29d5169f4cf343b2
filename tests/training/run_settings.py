"""Pictures and configuration files for tests of whole runs."""

import numpy as np
import yaml
from PIL import Image


def soft_pictures(folder, count, coarse, size):
    """`count` pictures of `size`: noise on a grid of `coarse` places, enlarged; both (width, height)."""
    rng = np.random.default_rng(0)
    for index in range(count):
        small = rng.integers(0, 256, (*coarse[::-1], 3), dtype=np.uint8)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def write_settings(path, settings, changes):
    """A YAML file of the settings, sections updated by the changes."""
    merged = dict(settings)
    for key, value in changes.items():
        merged[key] = merged.get(key, {}) | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(merged))
    return path
