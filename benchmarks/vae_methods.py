"""One VAE, one input, one way to take it: run in a process of its own by benchmarks/tiling.py.

    python -m benchmarks.vae_methods '{"vae": "tiny", "direction": "decode", "size": 512, "method": "ours"}'

Prints one JSON line: seconds of wall and CPU time, and peak memory above what was held before. The result is saved
where asked for.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osediff_core import OneStepGenerator
from osediff_core.backends.base_configs import read_json
from osediff_core.backends.networks import DiffusersVAE
from osediff_core.backends.read_base import SD21_BASE
from osediff_core.geometry import resize_clipped
from osediff_core.images import read_image
from osediff_core.tiles.vae import VAETiling, run

from .memory import held, peak, restart_peak

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "examples" / "photos" / "lighthouse.png"
MIB = 2**20


def load_vae(name: str, dtype: torch.dtype) -> DiffusersVAE:
    """ "tiny": the embedded one, trained. "sd21": Stable Diffusion's size with PyTorch's random weights, seeded."""
    if name == "tiny":
        vae = OneStepGenerator.load("tiny", dtype="fp32", device="cpu").vae
    else:
        from diffusers import AutoencoderKL

        torch.manual_seed(0)
        vae = DiffusersVAE(AutoencoderKL.from_config(read_json(SD21_BASE / "vae" / "config.json")).eval())
        vae.module.requires_grad_(False)
    vae.to(torch.device("cpu"), dtype)
    return vae


def make_input(vae: DiffusersVAE, direction: str, size: int) -> Tensor:
    """The photo at size x size pixels, or latents that have its structure: of a smaller photo, repeated."""
    rgb = torch.tensor(read_image(PHOTO).rgb).permute(2, 0, 1)[None]
    side = min(rgb.shape[-2:])
    photo = resize_clipped(rgb[..., :side, :side].contiguous(), (size, size)) * 2 - 1
    if direction == "encode":
        return photo
    small = 256
    mean = vae.encode(photo[..., :small, :small])[:, : vae.latent_channels] / vae.scaling_factor
    repeats = -(-size // small)
    side = size // vae.downscale
    return mean.float().repeat(1, 1, repeats, repeats)[..., :side, :side].contiguous()


def method(
    name: str, vae: DiffusersVAE, direction: str, x: Tensor, options: dict[str, Any]
) -> Callable[[], Tensor]:
    """What is timed: moments or image in fp32."""

    def whole() -> Tensor:
        given = x.to(vae.dtype)
        if direction == "encode":
            return vae.module.encode(given).latent_dist.parameters.float()
        return vae.module.decode(given).sample.float()

    if name == "untiled":
        return whole
    if name == "diffusers":
        vae.module.enable_tiling()
        return whole
    if name == "comfyui":
        return _comfyui(vae, direction, x, Path(options["comfyui"]))
    network = vae.encoder(*x.shape[-2:]) if direction == "encode" else vae.decoder(*x.shape[-2:])
    tiling = VAETiling(
        tile=options.get("tile"),
        memory=options.get("memory"),
        attention=options.get("attention", "exact"),
    )
    unscaled = replace(network, before=lambda x: x, after=lambda x: x)
    return lambda: run(direction, unscaled, x, whole, tiling)


def _comfyui(vae: DiffusersVAE, direction: str, x: Tensor, folder: Path) -> Callable[[], Tensor]:
    """What its nodes VAE Encode (Tiled) and VAE Decode (Tiled) do with their defaults: 512 pixels, overlap 64."""
    sys.path.insert(0, str(folder))
    from comfy.cli_args import args

    args.cpu = True
    import comfy.sd

    native = comfy.sd.VAE(sd=dict(vae.module.state_dict()), dtype=vae.dtype)
    if direction == "decode":

        def decode() -> Tensor:
            return native.decode_tiled(x, tile_x=64, tile_y=64, overlap=8).movedim(-1, 1) * 2 - 1

        return decode
    pixels = ((x + 1) / 2).movedim(1, -1)
    return lambda: native.encode_tiled(pixels, tile_x=512, tile_y=512, overlap=64)


@torch.inference_mode()
def main(case: dict[str, Any]) -> dict[str, Any]:
    """Carries out one case."""
    vae = load_vae(case["vae"], getattr(torch, case.get("dtype", "float32")))
    x = make_input(vae, case["direction"], case["size"])
    small = make_input(vae, case["direction"], 64)
    method("untiled", vae, case["direction"], small, {})()  # libraries set themselves up
    compute = method(case["method"], vae, case["direction"], x, case)
    gc.collect()
    before = held()
    restart_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    result = compute()
    measured = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    measured["peak_bytes"] = peak() - before
    if case.get("save"):
        np.save(case["save"], result.numpy())
    return measured


if __name__ == "__main__":
    found = main(json.loads(sys.argv[1]))
    os.write(1, (json.dumps(found) + "\n").encode())
