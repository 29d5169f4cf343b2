"""A teacher: another restoration model, whose result is one more target beside the good image.

It knows from its own training what this one must learn from few images. The target is a constant; only L1 is
taken, as the teacher's result has its own errors, which a squared distance would follow most where they are largest.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from osediff_core.errors import OptionError, first_line

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor


def teacher_loss(image: Tensor, target: Tensor) -> Tensor:
    """L1 of images (B, 3, H, W) in [-1, 1], a scalar; no gradient reaches the target."""
    return F.l1_loss(image, target.detach())


class Teacher(nn.Module):
    """A super-resolution or restoration model that spandrel reads: enlarged lq (B, 3, H, W) in [-1, 1] -> its result.

    A model that enlarges by s gets the lq shrunk by s, nearly what it was before it was enlarged. Files are read as
    tensors: code in a pickle is never run. Raises OptionError for a file that is no such model.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        descriptor = _read(path)
        self.net = descriptor.model  # a part of this module, so that it moves with it
        self._descriptor = (descriptor,)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, lq: Tensor) -> Tensor:
        """As the class says."""
        (descriptor,) = self._descriptor
        height, width = lq.shape[-2:]
        small = (lq.float() + 1) / 2
        if descriptor.scale > 1:
            size = (max(height // descriptor.scale, 1), max(width // descriptor.scale, 1))
            small = F.interpolate(small, size, mode="bicubic", antialias=True).clamp(0, 1)
        with torch.autocast(lq.device.type, enabled=False):
            # spandrel takes one image at a time; it pads to the sizes that the model wants
            restored = torch.cat([descriptor(image[None]) for image in small])
        if restored.shape[-2:] != lq.shape[-2:]:
            restored = F.interpolate(restored, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        return restored * 2 - 1


def _read(path: Path) -> ImageModelDescriptor:
    try:
        from spandrel import ImageModelDescriptor, ModelLoader, canonicalize_state_dict
    except ImportError as error:
        raise OptionError(
            "A teacher needs the package spandrel; run pip install spandrel, or leave out loss.teacher_model."
        ) from error
    if not path.is_file():
        raise OptionError(f"There is no teacher {path}; give a model's file, .safetensors or .pth.")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        found = ModelLoader().load_from_state_dict(canonicalize_state_dict(state))
    except pickle.UnpicklingError as error:
        raise OptionError(f"{path} holds code, or is damaged; give a file with tensors alone.") from error
    except Exception as error:  # spandrel's architectures raise many kinds on what is none of theirs
        raise OptionError(
            f"{path} is no model that spandrel knows ({first_line(error)}); give one such as RealESRGAN_x4plus.pth."
        ) from error
    if not isinstance(found, ImageModelDescriptor) or (found.input_channels, found.output_channels) != (3, 3):
        raise OptionError(f"{path} does not make one RGB image of another; give a restoration model.")
    return found
