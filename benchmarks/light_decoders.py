"""Light decoders against Stable Diffusion's own, on the same latents: time, memory, and parity with their reference.

    python -m benchmarks.light_decoders [--sizes 512 1024]

Random weights of the true sizes, fp32, on the CPU; every case in a process of its own. Needs Linux (for peak memory).
Prints a table; CPU-seconds are of all threads, which other programs change little. Parity: the largest difference of
the exact tiles, as `--decoder` runs them, from diffusers' own class run whole, whose result spans about 2.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from typing import Any

import torch

from osediff_core.backends.light_decoder import use_decoder
from osediff_core.backends.networks import DiffusersVAE
from osediff_core.decode import decode
from osediff_core.tiles.vae import VAETiling
from osediff_core.weights.decoder_file import ADCSR, TAESD, DecoderWeights

from .memory import held, peak, restart_peak
from .vae_methods import load_vae, make_input

FULL, HALF, TINY = "Stable Diffusion's", "half width (AdcSR, VOSR)", "TAESD's"
_PARITY = 256  # pixels a side


def light(vae: DiffusersVAE, name: str) -> DiffusersVAE:
    """The VAE with that decoder, of PyTorch's random weights."""
    from diffusers.models.autoencoders.vae import Decoder, DecoderTiny

    torch.manual_seed(1)
    if name == HALF:
        network = Decoder(4, 3, ("UpDecoderBlock2D",) * 4, (64, 128, 256, 256), 2)
        use_decoder(vae, DecoderWeights(ADCSR, network.state_dict(), "random weights"))
    elif name == TINY:
        tiny = DecoderTiny(4, 3, (3, 3, 3, 1), (64, 64, 64, 64), 2, "relu", "nearest")
        use_decoder(vae, DecoderWeights(TAESD, tiny.state_dict(), "random weights"))
    return vae


@torch.inference_mode()
def case(name: str, size: int) -> dict[str, float]:
    """CPU-seconds, peak bytes above what was held, parameters, and the difference from diffusers' class."""
    vae = light(load_vae("sd21", torch.float32), name)
    small = make_input(vae, "decode", _PARITY)
    whole = vae.module.decode(small / vae.scaling_factor).sample
    parity = float((decode(vae, small, tiling=VAETiling(128)) - whole.clamp(-1, 1)).abs().max())
    latents = make_input(vae, "decode", size)
    gc.collect()
    before = held()
    restart_peak()
    start = time.process_time()
    decode(vae, latents)
    return {
        "seconds": time.process_time() - start,
        "peak": peak() - before,
        "parameters": sum(p.numel() for p in vae.module.decoder.parameters()),
        "parity": parity,
    }


def measured(name: str, size: int) -> dict[str, Any]:
    """`case` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.light_decoders", "--case", name, str(size)]
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024], metavar="PX")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(case(args.case[0], int(args.case[1]))))  # noqa: T201
        return
    head = [
        "decoder",
        "parameters",
        "pixels",
        "CPU-s",
        "of the full one",
        "peak GB",
        "of the full one",
        "parity",
    ]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")  # noqa: T201
    for size in args.sizes:
        full: dict[str, Any] = {}
        for name in (FULL, HALF, TINY):
            found = measured(name, size)
            full = full or found
            print(  # noqa: T201
                f"| {name} | {found['parameters'] / 1e6:.1f} M | {size} | {found['seconds']:.1f} | "
                f"{found['seconds'] / full['seconds']:.2f} | {found['peak'] / 1e9:.2f} | "
                f"{found['peak'] / full['peak']:.2f} | {found['parity']:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
