"""The timestep whose noise is as strong as the damage of low-quality images, for `model.timestep`.

    python -m training.timestep --base BASE --images DIR [--preset realesrgan]

OSEDiff takes the last timestep, 999, where a base expects nearly pure noise, which a low-quality image is not. OMGSR
(Wu et al., arXiv 2508.08227) takes one in the middle, 273 for SD 2.1, by the ratio of signal to noise. Here, with z_L
and z_H the latents of the low-quality image and of the good one,

    z_L = a z_H + n,  a = <z_L, z_H> / <z_H, z_H>,    SNR_L = |a z_H|^2 / |n|^2
    z_t = alpha_t z_H + sigma_t eps,                   SNR_t = alpha_t^2 |z_H|^2 / (sigma_t^2 numel)

and the answer is the t at which SNR_t is the geometric mean of SNR_L over the images.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from osediff_core.backends.load_base import load_base
from osediff_core.cli.entry import run_main
from osediff_core.encode import encode
from osediff_core.runtime.device import parse_device
from osediff_core.schedule import NoiseSchedule

from .data.fixed_pairs import read_pairs
from .data.pictures import to_tensor

log = logging.getLogger("training")


def log_snr(z_lq: Tensor, z_hq: Tensor) -> Tensor:
    """log SNR_L of each sample, two (B, C, h, w) -> (B,)."""
    lq, hq = (z.flatten(1).double() for z in (z_lq, z_hq))
    signal = ((lq * hq).sum(dim=1) / hq.square().sum(dim=1))[:, None] * hq
    return (signal.square().sum(dim=1) / (lq - signal).square().sum(dim=1)).log()


def log_snr_of_timesteps(schedule: NoiseSchedule, z_hq: Tensor) -> Tensor:
    """log SNR_t of each sample at all timesteps, (B, C, h, w) -> (B, timesteps); it falls."""
    abar = schedule.alphas_cumprod.double().cpu()
    power = z_hq.flatten(1).double().square().mean(dim=1).cpu()
    return (abar / (1 - abar)).log() + power.log()[:, None]


def gaps(schedule: NoiseSchedule, z_lq: Tensor, z_hq: Tensor) -> Tensor:
    """log SNR_t - log SNR_L of each sample at all timesteps, (B, timesteps)."""
    return log_snr_of_timesteps(schedule, z_hq) - log_snr(z_lq, z_hq).cpu()[:, None]


def matching_timestep(gap: Tensor) -> int:
    """The t for all samples of `gaps` together."""
    return int(gap.mean(dim=0).abs().argmin())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed, 2 a wrong option."""
    parser = argparse.ArgumentParser(
        prog="python -m training.timestep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--base", required=True, help="what training takes as model.base")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="good images, degraded here; or LR/ and HR/"
    )
    parser.add_argument("--preset", default="realesrgan", help="the degradation (default: realesrgan)")
    parser.add_argument("--size", type=int, default=512, help="px, side of the centre crops (default: 512)")
    parser.add_argument("--limit", type=int, default=32, help="images (default: 32)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)

    def work() -> None:
        base = load_base(args.base, "fp32", parse_device(args.device))
        vae = base.vae
        pairs, _ = read_pairs(args.images, args.limit, args.size, vae.downscale, preset=args.preset)
        found = []
        with torch.no_grad():
            for pair in pairs:
                images = (to_tensor(image[None]).to(vae.device) for image in (pair.lq, pair.hq))
                found.append(gaps(base.schedule, *(encode(vae, image) for image in images)))
        gap = torch.cat(found)
        each = gap.abs().argmin(dim=1).double()
        spread = each.quantile(torch.tensor([0.1, 0.9], dtype=torch.float64))
        log.info(
            "model.timestep=%d: of %d images; of most single ones %d to %d",
            matching_timestep(gap),
            len(pairs),
            *spread.tolist(),
        )

    return run_main(work, log, line="%(message)s")


if __name__ == "__main__":
    sys.exit(main())
