"""Errors of a training step in half precision at t = 999, where the step multiplies the UNet's rounding by 14.6.

    python -m benchmarks.precision [--base FOLDER --weights FILE] [--size 128]

Without --base on random weights of SD 2.1's topology, a tenth as wide. Errors are relative to the same step in fp32
(the norm of the difference over the norm), for the restored latents x0, the image, and the gradient of its mean square
by all that the generator trains: without a loss scale, and with the one that a run in fp16 starts with.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.config import ModelConfig
from training.networks import build_networks
from training.steps import autocast

from .full_size import NARROW, write_full_size

CPU = torch.device("cpu")
VARIANTS = (("fp32", "bf16"), ("bf16", "bf16"), ("fp32", "fp16"), ("fp16", "fp16"))  # base_dtype, precision
SCALE = 2.0**16  # torch.amp.GradScaler's first


@dataclass
class Step:
    """Of one step: x0, image, and the gradient with and without a loss scale, each flat."""

    x0: Tensor
    image: Tensor
    gradient: Tensor
    scaled_gradient: Tensor


def take_step(base: Path, weights: Path | None, base_dtype: str, precision: str, size: int) -> Step:
    """On a fixed picture of `size` px and a fixed prompt."""
    start = str(weights) if weights else None
    networks = build_networks(ModelConfig(base=str(base), base_dtype=base_dtype, start_from=start), CPU)
    generator = networks.generator
    draws = torch.Generator().manual_seed(0)
    lq = torch.rand(1, 3, size, size, generator=draws) * 2 - 1
    embeds = generator.encode_prompt(["a harbour, boats"])
    gradients = []
    for scale in (1.0, SCALE):
        with autocast(CPU, precision):
            x0 = generator.denoise(generator.encode(lq), embeds)
            image = generator.decode(x0)
        (image.float().square().mean() * scale).backward()
        parameters = networks.generator_parameters.values()
        gradients.append(torch.cat([p.grad.flatten() / scale for p in parameters if p.grad is not None]))
        for parameter in parameters:
            parameter.grad = None
    return Step(x0.detach(), image.detach(), *gradients)


def errors(base: Path, weights: Path | None, size: int) -> dict[tuple[str, str], list[float]]:
    """(base_dtype, precision) -> errors of x0, image, gradient, scaled gradient."""
    exact = vars(take_step(base, weights, "fp32", "fp32", size))
    found = {}
    for base_dtype, precision in VARIANTS:
        step = vars(take_step(base, weights, base_dtype, precision, size))
        found[base_dtype, precision] = [float((step[k] - exact[k]).norm() / exact[k].norm()) for k in exact]
    return found


def table(found: dict[tuple[str, str], list[float]]) -> str:
    """Markdown."""
    lines = [
        "| `model.base_dtype` | `precision` | x0 | image | gradient | with a loss scale |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for names, values in found.items():
        lines.append(f"| {' | '.join([*names, *(f'{value:.1e}' for value in values)])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, help="a diffusers folder")
    parser.add_argument("--weights", type=Path, help="OSEDiff weights for it")
    parser.add_argument("--size", type=int, default=128, help="px")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        given = (args.base, args.weights) if args.base else write_full_size(Path(scratch), NARROW)
        sys.stdout.write(table(errors(*given, args.size)) + "\n")


if __name__ == "__main__":
    main()
