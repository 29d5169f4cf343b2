"""The frozen networks that look at a restored image: a distance, the features of a discriminator, a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .config import LossConfig
from .losses.projected import ProjectedDiscriminator, projected_discriminator
from .losses.teacher import Teacher
from .perceptual import trained_distance


@dataclass
class Judges:
    """Those that the loss uses, None for the others. projected: the heads on its frozen features are trained."""

    perceptual: nn.Module | None
    projected: ProjectedDiscriminator | None
    teacher: Teacher | None


def load_judges(loss: LossConfig, seed: int, device: torch.device) -> Judges:
    """Raises OptionError for weights that are not there or do not fit, and for packages that are missing."""
    projected = teacher = None
    if loss.uses("adversarial"):
        projected = projected_discriminator(loss.adversarial_features, seed).to(device)
    if loss.uses("teacher") and loss.teacher_model:
        teacher = Teacher(Path(loss.teacher_model)).to(device)
    return Judges(trained_distance(loss, device), projected, teacher)
