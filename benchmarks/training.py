"""Our trainer against three copies of the UNet (three_copies.py): memory of weights, peak memory, seconds a step.

    python -m benchmarks.training [--base FOLDER] [--size 128] [--batch 2] [--steps 12] [--rounds 3] [--markdown FILE]

Both train the same base with the same losses in fp32, in processes of their own that take turns. The base is a mini SD
2.1 with random weights unless a diffusers folder is given; loading pictures is not measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

import osediff_core

from .memory import peak

PROMPTS = ("a harbour, boats, water", "a street, houses, people", "a forest, trees, moss", "a portrait, hair")
_PACKAGED = Path(osediff_core.__file__).parent / "backends/sd21_base"


def write_mini(folder: Path) -> None:
    """A base of SD 2.1's layout with random weights: UNet 17 M, VAE 1.2 M, text encoder 7 M parameters."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = json.loads((_PACKAGED / "unet/config.json").read_text())
    unet |= {
        "block_out_channels": [64, 128, 128, 128],
        "attention_head_dim": [2, 4, 4, 4],
        "cross_attention_dim": 128,
    }
    vae = json.loads((_PACKAGED / "vae/config.json").read_text()) | {"block_out_channels": [32, 32, 64, 64]}
    text = json.loads((_PACKAGED / "text_encoder/config.json").read_text())
    text |= {"hidden_size": 128, "intermediate_size": 512, "projection_dim": 128}
    text |= {"num_attention_heads": 2, "num_hidden_layers": 4}
    UNet2DConditionModel.from_config(unet).save_pretrained(folder / "unet")
    AutoencoderKL.from_config(vae).save_pretrained(folder / "vae")
    CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(folder / "text_encoder")
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(_PACKAGED / name, folder / name)


def weight_bytes(modules: Iterable[nn.Module]) -> int:
    """Of parameters and buffers, what is shared counted once."""
    tensors = (t for module in modules for t in (*module.parameters(), *module.buffers()))
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def make_peer(base: Path, size: int, batch: int) -> tuple[Callable[[], None], int]:
    """(a function that does one step, bytes of weights)."""
    from training.config import NEGATIVE_PROMPT
    from training.perceptual import perceptual_loss

    from .three_copies import ThreeCopies

    trainer = ThreeCopies(base, perceptual_loss("efficientnet-lite0"), NEGATIVE_PROMPT)
    lq, hq, prompts = _batch(size, batch)
    return lambda: trainer.step(lq, hq, prompts), weight_bytes(trainer.modules())


def make_ours(base: Path, size: int, batch: int) -> tuple[Callable[[], None], int]:
    """The trainer as its command builds it, but for files and pictures."""
    from itertools import count

    from training.config import parse_config
    from training.data import Batch
    from training.run.start import Run
    from training.train import begin

    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch) / "pictures"
        pictures.mkdir()
        _picture(size).save(pictures / "one.png")
        config = {
            "output": f"{scratch}/run",
            "data": {"sources": [{"path": str(pictures)}], "resolution": size, "workers": 0},
            "model": {"base": str(base)},
            "loss": {"perceptual_kind": "efficientnet-lite0"},
            "batch": batch,
            "device": "cpu",
        }
        _, iteration = begin(Run(parse_config(config), "several losses share the networks"))
    lq, hq, prompts = _batch(size, batch)
    batches = (
        Batch(lq, hq, prompts, ["benchmark"] * batch, list(range(n * batch, (n + 1) * batch)))
        for n in count()
    )
    networks = iteration.networks
    modules = (networks.base.unet.module, networks.base.vae.module, networks.base.text.module)
    return lambda: iteration(batches), weight_bytes(modules)


def _picture(size: int) -> object:
    from PIL import Image

    return Image.effect_noise((size, size), 60).convert("RGB")


def _batch(size: int, batch: int) -> tuple[Tensor, Tensor, list[str]]:
    torch.manual_seed(1)
    hq = torch.rand(batch, 3, size, size) * 2 - 1
    return (
        (hq + 0.2 * torch.randn_like(hq)).clamp(-1, 1),
        hq,
        [PROMPTS[i % len(PROMPTS)] for i in range(batch)],
    )


def measure(which: str, base: Path, size: int, batch: int, steps: int) -> dict[str, float]:
    """Seconds of the median step after two to warm up, bytes of weights, peak resident bytes."""
    step, weights = {"peer": make_peer, "ours": make_ours}[which](base, size, batch)
    gc.collect()
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[2:]), "weights": weights, "peak": peak()}


def table(results: dict[str, list[dict[str, float]]], settings: str) -> str:
    """Markdown, with the ratio of ours to the peer's."""
    rows = ["| | three copies | ours | ratio |", "|---|---|---|---|"]
    for name, unit, factor in (("weights", "MB", 1e6), ("peak", "MB", 1e6), ("seconds", "s", 1)):
        peer, ours = (
            statistics.median(r[name] for r in results[which]) / factor for which in ("peer", "ours")
        )
        label = {
            "weights": "memory of weights",
            "peak": "peak memory of the process",
            "seconds": "time per step",
        }
        form = "{:.2f}" if unit == "s" else "{:.0f}"
        rows.append(
            f"| {label[name]} | {form.format(peer)} {unit} | {form.format(ours)} {unit} | {ours / peer:.2f} |"
        )
    return "\n".join([*rows, "", settings])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base", type=Path, help="a diffusers folder (default: a mini one with random weights)"
    )
    parser.add_argument("--size", type=int, default=128, help="px")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--one", choices=("peer", "ours"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.base, args.size, args.batch, args.steps)))  # noqa: T201
        return
    with tempfile.TemporaryDirectory() as scratch:
        base = args.base or Path(scratch) / "mini"
        if args.base is None:
            write_mini(base)
        results: dict[str, list[dict[str, float]]] = {"peer": [], "ours": []}
        for _ in range(args.rounds):
            for which, found in results.items():
                command = [sys.executable, "-m", "benchmarks.training", "--one", which, "--base", str(base)]
                command += ["--size", str(args.size), "--batch", str(args.batch), "--steps", str(args.steps)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
    settings = (
        f"{args.base or 'mini SD 2.1'}, {args.batch} pictures of {args.size} px, fp32, {torch.get_num_threads()} CPU "
        f"threads, torch {torch.__version__}; medians of {args.rounds} rounds of {args.steps} steps."
    )
    text = table(results, settings)
    print(text)  # noqa: T201
    if args.markdown:
        args.markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
