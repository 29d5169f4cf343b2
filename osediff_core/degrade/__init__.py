"""Make good pictures bad, as training and tests need it: seeded, and every number on record.

    lq, degradations = degrade(image, preset="realesrgan", scale=4, seed=0)    # image (B, 3, H, W) in [0, 1]

pipeline.py: presets.py -> realesrgan.py draws -> parameters.py -> apply.py: operations.py, kernels.py
"""

from .apply import apply
from .parameters import Blur, Degradation, Jpeg, Kernel, Noise, Resize
from .pipeline import degrade, draw
from .presets import PRESETS, Preset

__all__ = [
    "PRESETS",
    "Blur",
    "Degradation",
    "Jpeg",
    "Kernel",
    "Noise",
    "Preset",
    "Resize",
    "apply",
    "degrade",
    "draw",
]
