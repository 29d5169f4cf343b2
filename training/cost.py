"""What a training step costs in memory and arithmetic, counted without weights and without a GPU.

    python -m training.cost --config training/configs/osediff_24gb.yaml [--resolution 512] [--batch 1] [--markdown]
    python -m training.cost [--base sd21] [--rank 4] [--base-dtype bf16] [--precision bf16] [--checkpointing]
    python -m training.cost --table        (docs/training_cost.md)

Takes about 20 s for SD 2.1-base. Memory is that of lasting tensors: weights, gradients, Adam's moments, what is saved
for the backward pass. What lives for one layer only, cuDNN's workspaces, the CUDA context and fragmentation come on
top.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from osediff_core.cli.entry import run_main
from osediff_core.errors import OptionError
from osediff_core.runtime.device import DTYPES

from .config import TrainConfig, load_config
from .counting import PROMPT, StepCounts, count_step
from .meta_networks import MetaNetworks, build_on_meta, perceptual_network

log = logging.getLogger("training.cost")

GIB = 2**30
_REGULARISED = ("vsd",)
_TAUGHT = ("vsd", "csd", "sds")


@dataclass(frozen=True)
class Recipe:
    """What the cost depends on."""

    name: str = "these options"
    base: str = "sd21"
    rank_unet: int = 4
    rank_vae: int = 4
    rank_regulariser: int = 4
    tune_vae: bool = True
    base_dtype: str = "bf16"
    precision: str = "bf16"
    checkpointing: bool = False
    resolution: int = 512
    batch: int = 1  # samples at a time
    accumulate: int = 1
    regulariser: str = "vsd"
    regulariser_steps: int = 1
    perceptual: str = "lpips-vgg"
    ema: bool = False
    # the released script: three UNets, two VAEs, two text encoders; the teacher and one text encoder in half precision
    three_copies: bool = False


@dataclass(frozen=True)
class Cost:
    """memory: bytes by what takes them when the generator's backward pass starts, which is the peak.

    flops: of a step by part. saved: bytes of activations by part.
    """

    recipe: Recipe
    generator: int  # trained parameters
    regulariser: int
    memory: dict[str, int]
    flops: dict[str, int]
    saved: dict[str, int]

    @property
    def peak(self) -> int:
        """Bytes."""
        return sum(self.memory.values())


def recipe_of(config: TrainConfig, name: str) -> Recipe:
    """Raises OptionError for variants that are not counted."""
    model = config.model
    if model.tune_vae not in ("none", "encoder") or model.regulariser in ("vsd-pixel", "gan"):
        raise OptionError(
            f"The cost of tune_vae={model.tune_vae} with regulariser={model.regulariser} is not counted; count with "
            "tune_vae=encoder and regulariser=vsd instead, which is near it."
        )
    return Recipe(
        name=name,
        base=model.base,
        rank_unet=model.rank_unet,
        rank_vae=model.rank_vae,
        rank_regulariser=model.rank_regulariser,
        tune_vae=model.tune_vae == "encoder",
        base_dtype=model.base_dtype,
        precision=config.precision,
        checkpointing=model.gradient_checkpointing,
        resolution=config.data.resolution,
        batch=config.batch,
        accumulate=config.optim.accumulate,
        regulariser=model.regulariser,
        regulariser_steps=config.optim.regulariser_steps,
        perceptual=config.loss.perceptual_kind if config.loss.perceptual else "none",
        ema=config.optim.ema > 0,
    )


def cost(recipe: Recipe) -> Cost:
    """Count it. Raises OptionError for an impossible resolution or types, BaseModelError for a broken base."""
    if recipe.resolution < 64 or recipe.resolution % 64:
        raise OptionError(f"The resolution {recipe.resolution} must be a multiple of 64 px.")
    if recipe.base_dtype != "fp32" and recipe.precision == "fp32":
        raise OptionError(
            f"A base in {recipe.base_dtype} needs autocast; choose bf16 or fp16 as precision, too."
        )
    networks = build_on_meta(
        recipe.base, recipe.rank_unet, recipe.rank_vae, recipe.rank_regulariser, recipe.tune_vae
    )
    regularised = recipe.regulariser in _REGULARISED
    perceptual = perceptual_network(recipe.perceptual)
    counts = count_step(
        networks,
        perceptual,
        recipe.resolution,
        recipe.batch,
        base_dtype=recipe.base_dtype,
        precision=recipe.precision,
        gradient_checkpointing=recipe.checkpointing,
        teacher_passes=2 if recipe.regulariser in _TAUGHT else 0,
        regularised=regularised,
    )
    generator = networks.trainable(networks.generator_adapters)
    regulariser = networks.trainable(networks.regulariser_adapters) if regularised else 0
    of_perceptual = sum(p.numel() for p in perceptual.parameters()) if perceptual else 0
    memory = weights_memory(networks, recipe, of_perceptual) | _training(
        recipe, counts, generator, regulariser
    )
    return Cost(recipe, generator, regulariser, memory, _flops(recipe, counts), counts.saved)


def weights_memory(networks: MetaNetworks, recipe: Recipe, of_perceptual: int = 0) -> dict[str, int]:
    """Bytes of the frozen weights by role. of_perceptual: parameters of the perceptual network."""
    sizes, width = networks.base_parameters, DTYPES[recipe.base_dtype].itemsize
    perceptual = {"perceptual network": 4 * of_perceptual}
    if recipe.three_copies:
        return {
            "UNet of the generator": 4 * sizes["unet"],
            "UNet of the regulariser": 4 * sizes["unet"],
            "UNet of the teacher": 2 * sizes["unet"],
            "VAEs": 2 * 4 * sizes["vae"],
            "text encoders": (4 + 2) * sizes["text encoder"],
        } | perceptual
    return {
        "UNet, all roles": width * sizes["unet"],
        "VAE": width * sizes["vae"],
        "text encoder": width * sizes["text encoder"],
    } | perceptual


def _training(recipe: Recipe, counts: StepCounts, generator: int, regulariser: int) -> dict[str, int]:
    trained = generator + regulariser
    saved = {part: size for part, size in counts.saved.items() if part != "regulariser"}
    return {
        "trained weights": 4 * trained,
        "gradients": 4 * trained,
        "Adam's moments": 8 * trained,
        "average": 4 * generator if recipe.ema else 0,
        "activations": sum(saved.values()),
        "largest block computed again": counts.block,
    }


def _flops(recipe: Recipe, counts: StepCounts) -> dict[str, int]:
    """Of one step: all its micro-batches and updates of the regulariser. Prompts come from a cache."""
    found = {part: flops * recipe.accumulate for part, flops in counts.flops.items() if part != PROMPT}
    for part in ("regulariser", "regulariser backward"):
        if part in found:
            found[part] *= recipe.regulariser_steps
    return found


ONE_CARD = Path(__file__).with_name("configs") / "osediff_24gb.yaml"
OFFICIAL = Recipe("released script", base_dtype="fp32", precision="fp16", batch=4, three_copies=True)
COMPARED = (
    OFFICIAL,
    Recipe("one base, fp32", base_dtype="fp32", precision="fp32", batch=4),
    Recipe("one base, fp32, recomputed", base_dtype="fp32", precision="fp32", batch=4, checkpointing=True),
    Recipe("one base, bf16", batch=4),
    Recipe("one base, bf16, recomputed", batch=4, checkpointing=True),
)


def compared() -> list[Recipe]:
    """The recipes of docs/training_cost.md. Raises OptionError for a configuration that cannot be read."""
    return [*COMPARED, recipe_of(load_config(ONE_CARD), "one 24 GB GPU")]


def comparison(costs: Sequence[Cost]) -> str:
    """A Markdown table, one row a recipe."""
    lines = [
        "| recipe | samples at a time | weights | trained, gradients, Adam | activations | block | **GiB** "
        "| TFLOP a sample |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in costs:
        memory, recipe = found.memory, found.recipe
        kept = ("activations", "largest block computed again")
        trained = sum(memory[name] for name in ("trained weights", "gradients", "Adam's moments", "average"))
        rest = found.peak - trained - sum(memory[name] for name in kept)
        figures = (rest, trained, *(memory[name] for name in kept))
        cells = " | ".join(f"{size / GIB:.2f}" for size in figures)
        a_sample = sum(found.flops.values()) / (recipe.batch * recipe.accumulate) / 1e12
        lines.append(
            f"| {recipe.name} | {recipe.batch} | {cells} | **{found.peak / GIB:.1f}** | {a_sample:.1f} |"
        )
    return "\n".join(lines)


def details(found: Cost, markdown: bool) -> str:
    """All figures of one recipe, as text or as Markdown tables."""
    recipe = found.recipe
    counts = {"generator": found.generator, "regulariser": found.regulariser}
    counts["both"] = sum(counts.values())
    total = {"sum": f"{sum(found.flops.values()) / 1e12:.2f}"}
    tables = (
        ("trained parameters", "", {name: f"{count:,}" for name, count in counts.items()}),
        ("memory", "GiB", _rows(found.memory, GIB) | {"sum": f"{found.peak / GIB:.2f}"}),
        ("saved for backward", "GiB", _rows(found.saved, GIB)),
        ("arithmetic of a step", "TFLOP", _rows(found.flops, 1e12) | total),
    )
    title = (
        f"{recipe.name}: base {recipe.base} in {recipe.base_dtype}, autocast {recipe.precision}, "
        f"{recipe.batch} x {recipe.accumulate} samples of {recipe.resolution} px"
        f"{', recomputed blocks' if recipe.checkpointing else ''}"
    )
    return "\n".join([title, *(_table(*table, markdown) for table in tables)])


def _rows(sizes: dict[str, int], unit: float) -> dict[str, str]:
    return {name: f"{size / unit:.2f}" for name, size in sizes.items() if size}


def _table(title: str, unit: str, rows: dict[str, str], markdown: bool) -> str:
    if markdown:
        return "\n".join(
            ["", f"| {title} | {unit} |", "|---|---:|", *(f"| {n} | {f} |" for n, f in rows.items())]
        )
    names, figures = (max(map(len, column)) for column in (rows, rows.values()))
    return "\n".join(
        ["", f"{title}{f' ({unit})' if unit else ''}"]
        + [f"  {name:<{names}}  {figure:>{figures}}" for name, figure in rows.items()]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed, 2 a wrong option."""
    parser = argparse.ArgumentParser(
        prog="python -m training.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", help="a YAML file of training/configs; the options below change it")
    parser.add_argument(
        "--base", help="tiny, a diffusers folder; anything else counts as SD 2.1-base (default sd21)"
    )
    parser.add_argument("--rank", type=int, help="of all LoRA (default 4)")
    parser.add_argument("--resolution", type=int, help="px (default 512)")
    parser.add_argument("--batch", type=int, help="samples at a time (default 1)")
    parser.add_argument("--base-dtype", choices=list(DTYPES), help="of frozen weights (default bf16)")
    parser.add_argument("--precision", choices=list(DTYPES), help="of autocast (default bf16)")
    parser.add_argument(
        "--checkpointing", action="store_true", default=None, help="blocks are computed again"
    )
    parser.add_argument("--markdown", action="store_true", help="tables for a document")
    parser.add_argument("--table", action="store_true", help="the comparison of recipes instead")
    args = parser.parse_args(argv)

    def work() -> None:
        if args.table:
            text = comparison([cost(recipe) for recipe in compared()])
        else:
            text = details(cost(_chosen(args)), args.markdown)
        sys.stdout.write(text + "\n")

    return run_main(work, log, level=logging.ERROR)


def _chosen(args: argparse.Namespace) -> Recipe:
    recipe = recipe_of(load_config(args.config), args.config) if args.config else Recipe()
    given = {
        name: value
        for name in ("base", "resolution", "batch", "base_dtype", "precision", "checkpointing")
        if (value := getattr(args, name)) is not None
    }
    if args.rank is not None:
        given |= {f"rank_{part}": args.rank for part in ("unet", "vae", "regulariser")}
    return replace(recipe, **given)


if __name__ == "__main__":
    sys.exit(main())
