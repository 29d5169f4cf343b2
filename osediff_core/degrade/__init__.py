"""Degradations: good pictures made bad, as training and tests need it, seeded and with every number on record.

    lq, degradations = degrade(image, preset="realesrgan", scale=4, seed=0)    # image (B, 3, H, W) in [0, 1]
    lq, hq, degradation = degrade_pair(image, "bsrgan", 4, seed=0, index=0)    # one picture, lq as large as hq

batch.py: presets/*.yaml -> preset_files.py -> preset.py -> realesrgan.py, codeformer.py or bsrgan.py draws ->
parameters.py -> apply.py: operations.py, kernels.py, noise.py, jpeg.py
"""

from .apply import apply
from .batch import degrade, degrade_pair, draw
from .operations import sharpen
from .parameters import Blur, Degradation, Jpeg, Kernel, Noise, Pick, Resize, Sharpen
from .preset import Preset
from .preset_files import PRESETS, find_preset

__all__ = [
    "PRESETS",
    "Blur",
    "Degradation",
    "Jpeg",
    "Kernel",
    "Noise",
    "Pick",
    "Preset",
    "Resize",
    "Sharpen",
    "apply",
    "degrade",
    "degrade_pair",
    "draw",
    "find_preset",
    "sharpen",
]
