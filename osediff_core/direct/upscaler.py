"""Upscalers that are no one-step diffusion: GANs and others, of every architecture that the package spandrel knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import CheckpointError, first_line
from ..interrupts import pass_on
from ..method import Method
from ..weights.identify import identify_file
from ..weights.tensor_file import TensorFile
from .network import Network

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

KINDS = ("upscaler", "unknown")  # of files that may be one, as `identify` says


class Upscaler(Network):
    """A network of spandrel's. It takes and gives one image at a time, in [0, 1], and pads as it needs."""

    def __init__(self, descriptor: ImageModelDescriptor) -> None:
        super().__init__()
        self.net = descriptor.model  # a part of this module, so that it moves with it
        self.descriptor = descriptor
        self.scale, self.multiple = descriptor.scale, descriptor.size_requirements.multiple_of
        self.method = Method(
            title=descriptor.architecture.name,
            base="none",
            prompt="none: it reads no text",
            reads_words=False,
            color_fix="none",
            advice=f"It enlarges by {self.scale}.",
        )

    def forward(self, lq: Tensor) -> Tensor:
        """As the class Network says."""
        return torch.cat([self.descriptor(image[None]) for image in (lq + 1) / 2]) * 2 - 1

    def takes(self, dtype: torch.dtype) -> bool:
        """Whether its architecture computes in that precision."""
        net = self.descriptor
        return {torch.float16: net.supports_half, torch.bfloat16: net.supports_bfloat16}.get(dtype, True)


def read_upscaler(file: TensorFile) -> Upscaler | None:
    """The network in an opened file, in fp32 on the CPU; None for a file that is known to be something else.

    Raises CheckpointError where spandrel is missing, knows no such network, or knows it for something else than to make
    one RGB image of another.
    """
    identity = identify_file(file)
    if identity.kind not in KINDS:
        return None
    try:
        from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError, canonicalize_state_dict
    except ImportError as error:
        if identity.kind == "unknown":
            return None
        raise CheckpointError(
            f"{file.path} is {identity.what}, which the package spandrel runs; pip install spandrel."
        ) from error
    state = dict(file.content) if isinstance(file.content, Mapping) else dict(file.tensors())
    file.check_sizes()
    try:
        found = ModelLoader().load_from_state_dict(canonicalize_state_dict(state))
    except UnsupportedModelError as error:
        if identity.kind == "unknown":
            return None
        raise CheckpointError(
            f"{file.path} is {identity.what}, but none that spandrel knows; update spandrel, or give another file."
        ) from error
    except Exception as error:  # its architectures raise many kinds on what is none of theirs
        pass_on(error)
        if identity.kind == "unknown":
            return None
        raise CheckpointError(
            f"{file.path} is {identity.what}, but not whole ({first_line(error)}); download it again."
        ) from error
    if not isinstance(found, ImageModelDescriptor) or (found.input_channels, found.output_channels) != (3, 3):
        raise CheckpointError(
            f"{file.path} does not make one RGB image of another ({found.architecture.name}); give an upscaler that "
            "does."
        )
    found.model.float().requires_grad_(False).eval()
    return Upscaler(found)
