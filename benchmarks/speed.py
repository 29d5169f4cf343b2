"""Ours against plain diffusers with unmerged LoRA, as the official code runs it: seconds a stage, memory, closeness.

    python -m benchmarks.speed [--pixels 512] [--rounds 3] [--variants ours-fp32 ours-bf16 …]
                               [--base FOLDER --weights FILE] [--output NAME]

Without --base, SD 2.1-base's full size with random weights, and random LoRA of rank 4 on it. Every variant is loaded in
a process of its own; then they take turns, a picture each, so that what else the machine does meets all alike. Writes
OUTPUT.json and OUTPUT.md. Needs 16 GB of memory for the two default variants on a CPU, 3 to 6 GB for each further one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .full_size import write_full_size
from .memory import peak, restart_peak
from .quiet import is_narrow, ratio_interval

PROMPT = "a harbour, boats, water, houses"
STAGES = ("encode", "denoise", "decode")
# of the UNet, as the official code and ours have by default
TILES = {"tile": 96, "overlap": 32, "grid": "official"}
VARIANTS: dict[str, dict[str, Any]] = {  # the dtype, and what of TILES and Speed differs
    "ours-fp32": {"dtype": "fp32"},
    "ours-bf16": {"dtype": "bf16"},
    "ours-fp16": {"dtype": "fp16"},
    "ours-bf16, balanced tiles": {"dtype": "bf16", "grid": "balanced"},
    "ours-fp16, balanced tiles": {"dtype": "fp16", "grid": "balanced"},
    "ours-bf16, whole": {"dtype": "bf16", "tile": None},
    "ours-fp16, whole": {"dtype": "fp16", "tile": None},
    "fp32, channels-last": {"dtype": "fp32", "channels_last": True},
    "fp32, compiled": {"dtype": "fp32", "compile": True},
    "bf16, not channels-last": {"dtype": "bf16", "channels_last": False},
    "bf16, compiled": {"dtype": "bf16", "compile": True},
}
PEER = "diffusers"


class Peer:
    """Plain diffusers in fp32, LoRA unmerged, as the official code computes, in its default tiles.

    As there, the prompt of every picture goes through the text encoder; that is part of `denoise`.
    """

    def __init__(self, base: Path, weights: Path, device: str) -> None:
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from transformers import AutoTokenizer, CLIPTextModel

        from osediff_core.weights.checkpoint import read_weights
        from training.adapters import attach_peft, copy_into_peft

        self.tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer", trust_remote_code=False)
        self.text = CLIPTextModel.from_pretrained(base / "text_encoder", trust_remote_code=False).to(device)
        self.vae = AutoencoderKL.from_pretrained(base / "vae").to(device)
        self.unet = UNet2DConditionModel.from_pretrained(base / "unet").to(device)
        osediff = read_weights(weights)
        attach_peft(self.unet, self.vae)
        copy_into_peft(osediff, self.unet, self.vae)
        self.alpha_bar = DDPMScheduler.from_pretrained(base / "scheduler").alphas_cumprod[999]
        self.device = device

    def stages(self, lq: Tensor) -> dict[str, Callable[[Any], Any]]:
        """Each takes what the one before gave."""
        scale = self.vae.config.scaling_factor

        def encode(_: None) -> Tensor:
            return self.vae.encode(lq).latent_dist.mode() * scale

        def denoise(latents: Tensor) -> Tensor:
            from osediff_core.tiles.grid import lay_tiles
            from osediff_core.tiles.unet import predict_tiled

            ids = self.tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
            embeds = self.text(ids.to(self.device)).last_hidden_state
            tiles = lay_tiles(TILES["grid"], *latents.shape[-2:], TILES["tile"], TILES["overlap"])
            steps = torch.tensor([999], device=self.device)

            def unet(cut: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
                return self.unet(cut, timesteps, encoder_hidden_states=prompt_embeds).sample

            noise = predict_tiled(unet, latents, steps, embeds, tiles)
            return (latents - (1 - self.alpha_bar).sqrt() * noise) / self.alpha_bar.sqrt()

        return {
            "encode": encode,
            "denoise": denoise,
            "decode": lambda z: self.vae.decode(z / scale).sample.clamp(-1, 1),
        }


class Ours:
    """OneStepGenerator with the UNet's tiles as `osediff upscale` has them, and a variant's switches.

    It remembers the embedding of a prompt, so that the text encoder runs in the first round alone.
    """

    def __init__(self, base: Path, weights: Path, device: str, options: dict[str, Any]) -> None:
        from osediff_core import OneStepGenerator
        from osediff_core.backends.speed import Speed
        from osediff_core.tiles.unet import UNetTiling

        self.tiling = UNetTiling(**{key: options.get(key, default) for key, default in TILES.items()})
        speed = Speed(**{key: v for key, v in options.items() if key != "dtype" and key not in TILES})
        self.generator = OneStepGenerator.load(
            base, weights, dtype=options["dtype"], device=device, keep_base=False, speed=speed
        )

    def stages(self, lq: Tensor) -> dict[str, Callable[[Any], Any]]:
        """Each takes what the one before gave."""
        generator = self.generator

        def denoise(latents: Tensor) -> Tensor:
            embeds = generator.encode_prompt([PROMPT])
            return generator.denoise(latents, embeds, tiling=self.tiling)

        return {
            "encode": lambda _: generator.encode(lq),
            "denoise": denoise,
            "decode": generator.decode,
        }


def work(args: argparse.Namespace) -> None:
    """A variant's process: restores the picture once for each line it reads, and answers with figures."""
    start = time.perf_counter()
    if args.worker == PEER:
        model = Peer(args.base, args.weights, args.device)
    else:
        model = Ours(args.base, args.weights, args.device, VARIANTS[args.worker])
    loaded = {"load seconds": time.perf_counter() - start, "load memory": peak(args.device)}
    restart_peak(args.device)
    lq = picture(args.pixels).to(args.device)
    print(json.dumps(loaded), flush=True)  # noqa: T201
    for line in sys.stdin:
        figures, value = {}, None
        with torch.inference_mode():
            for name, stage in model.stages(lq).items():
                start = time.perf_counter()
                value = stage(value)
                if value.is_cuda:
                    torch.cuda.synchronize()
                figures[name] = time.perf_counter() - start
        np.save(line.strip(), ((value.float().cpu() + 1) / 2).numpy())
        figures["memory"] = peak(args.device)
        print(json.dumps(figures), flush=True)  # noqa: T201


def picture(pixels: int) -> Tensor:
    """Soft noise of several scales, (1, 3, pixels, pixels) in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 3, pixels, pixels)
    for side in (4, 16, 64):
        image += torch.nn.functional.interpolate(
            torch.rand(1, 3, side, side, generator=generator) - 0.5, (pixels, pixels), mode="bicubic"
        )
    return image.clamp(-1, 1).contiguous()


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Name -> figures, the medians of the rounds, which are taken until every ratio's interval is narrow enough."""
    found: dict[str, list[dict[str, float]]] = {}
    names = [PEER, *args.variants]
    with tempfile.TemporaryDirectory() as scratch:
        workers = {name: _start(name, args) for name in names}
        loaded = {name: json.loads(worker.stdout.readline()) for name, worker in workers.items()}
        images: dict[str, np.ndarray] = {}
        for turn in range(args.warm_up + args.most):
            if turn >= args.warm_up + args.rounds and _narrow(found):
                break
            for name, worker in workers.items():
                file = Path(scratch) / "image.npy"
                worker.stdin.write(f"{file}\n")
                worker.stdin.flush()
                figures = json.loads(worker.stdout.readline())
                images.setdefault(name, np.load(file))
                if turn >= args.warm_up:
                    found.setdefault(name, []).append(figures)
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    results = {}
    for name, rounds in found.items():
        figures = {key: median(r[key] for r in rounds) for key in rounds[0]}
        figures["seconds"] = median(sum(r[stage] for stage in STAGES) for r in rounds)
        figures["faster"], figures["at least"], figures["at most"] = ratio_interval(_ratios(found, name))
        figures["rounds"] = len(rounds)
        difference = np.abs(images[name] - images[PEER])
        figures["max error"] = float(difference.max())
        figures["psnr"] = float(-10 * np.log10(max(np.mean(difference**2), 1e-20)))
        results[name] = {**loaded[name], **figures}
    return results


def _ratios(found: dict[str, list[dict[str, float]]], name: str) -> list[float]:
    """How many times as fast as the peer in each turn, as the machine may be busier in one than in another."""
    pairs = zip(found[PEER], found[name], strict=True)
    return [sum(p[s] for s in STAGES) / sum(r[s] for s in STAGES) for p, r in pairs]


def _narrow(found: dict[str, list[dict[str, float]]]) -> bool:
    return all(is_narrow(_ratios(found, name)) for name in found)


def _start(name: str, args: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.speed", "--worker", name, "--base", str(args.base)]
    command += ["--weights", str(args.weights), "--pixels", str(args.pixels), "--device", args.device]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    heads = ["", *(f"{stage} s" for stage in STAGES), "**times as fast**", "memory GB", "of the peer's"]
    heads += ["PSNR dB", "max error"]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    peer = results[PEER]
    for name, r in results.items():
        row = ["plain diffusers, LoRA unmerged" if name == PEER else name]
        row += [f"{r[stage]:.1f}" for stage in STAGES]
        spread = (
            "" if name == PEER or "at least" not in r else f" ({r['at least']:.2f} to {r['at most']:.2f})"
        )
        row += [
            f"**{r['faster']:.2f}**{spread}",
            f"{r['memory'] / 1e9:.2f}",
            f"{r['memory'] / peer['memory']:.2f}",
        ]
        row += ["", ""] if name == PEER else [f"{r['psnr']:.1f}", f"{r['max error']:.1e}"]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The settings of a measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pixels", type=int, default=512, help="side of the restored picture")
    parser.add_argument("--rounds", type=int, default=3, help="turns at least")
    parser.add_argument(
        "--most", type=int, default=8, help="turns at most, if the ratios' intervals stay wide"
    )
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that do not count")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["ours-fp32", "ours-bf16"])
    parser.add_argument("--base", type=Path, help="a diffusers folder; needs --weights")
    parser.add_argument("--weights", type=Path, help="OSEDiff weights for it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="file name without suffix for JSON and Markdown")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    """The command line."""
    args = parse()
    if args.worker:
        work(args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if args.base is None:
            args.base, args.weights = write_full_size(Path(scratch))
        results = measure(args)
    settings = {
        "pixels": args.pixels,
        "rounds": args.rounds,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name()
        if args.device != "cpu"
        else torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
    }
    text = table(results) + "\n\n" + ", ".join(f"{key} {value}" for key, value in settings.items()) + "\n"
    print(text)  # noqa: T201
    if args.output:
        args.output.with_suffix(".json").write_text(
            json.dumps({"settings": settings, "results": results}, indent=1)
        )
        args.output.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
