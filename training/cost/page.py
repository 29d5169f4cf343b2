"""Cost of recipes as text: one recipe for the terminal, all of them as docs/training_cost.md."""

from __future__ import annotations

import string
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..config import TrainConfig, load_config
from .measure import Cost, measure
from .plan import GPUS, UTILISATION, Plan

GIB = 2**30
CONFIGS = Path(__file__).parents[1] / "configs"
_TEMPLATE = Path(__file__).with_name("page.md")


@dataclass(frozen=True)
class Row:
    """A recipe of the page: a configuration, changes to it, and where it is run."""

    name: str
    config: str
    plan: Plan = field(default_factory=lambda: Plan(GPUS["a100"]))
    settings: tuple[str, ...] = ()


RUNS = (
    Row("one card of 24 GB", "osediff_24gb", Plan(GPUS["rtx4090"])),
    Row("four A100, the paper's", "osediff_sd21", Plan(GPUS["a100"], 4)),
    Row("a node of eight A100", "osediff_8gpu", Plan(GPUS["a100"], 8)),
    Row("a node of eight H100", "osediff_8gpu", Plan(GPUS["h100"], 8)),
    Row("two nodes of eight H100, SLURM", "osediff_8gpu", Plan(GPUS["h100"], 16), ("steps=25000",)),
    Row("faces, four A100", "osediff_face", Plan(GPUS["a100"], 4)),
)
VARIANTS = (
    Row("fp32", "osediff_sd21", settings=("precision=fp32", "model.base_dtype=fp32")),
    Row("fp16", "osediff_sd21"),
    Row("fp16, recomputed", "osediff_sd21", settings=("model.gradient_checkpointing=true",)),
)


def page() -> str:
    """The whole document."""
    measured: dict[str, Cost] = {}

    def of(row: Row) -> tuple[TrainConfig, Cost]:
        config = load_config(CONFIGS / f"{row.config}.yaml", list(row.settings))
        step = _step_of(config)
        if step not in measured:
            measured[step] = measure(config)
        return config, measured[step]

    runs = [_run(row, *of(row)) for row in RUNS]
    variants = [_variant(row, *of(row)) for row in VARIANTS]
    _, cost = of(VARIANTS[0])
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        runs="\n".join(runs),
        variants="\n".join(variants),
        parts=_parts(cost),
        parameters=_table({name: f"{count:,}" for name, count in cost.parameters.items()}),
        gpus="\n".join(f"| {gpu.name} | {gpu.teraflops:g} | {gpu.price:.2f} |" for gpu in GPUS.values()),
        utilisation=f"{UTILISATION:.0%}",
    )


def _step_of(config: TrainConfig) -> str:
    """What a step's cost depends on: recipes that differ in the rest need not be measured again."""
    optim = replace(
        config.optim, schedule="constant", warmup=0, learning_rate=1.0, regulariser_learning_rate=1.0
    )
    return repr((config.model, replace(config.loss, negative_prompt=""), optim, config.batch, config.precision,
                 config.data.resolution, config.data.captions))  # fmt: skip


def _run(row: Row, config: TrainConfig, cost: Cost) -> str:
    plan, hours = row.plan, row.plan.hours(cost, config.steps)
    seen = cost.samples * plan.gpus
    cells = (
        f"{row.name}: `{row.config}.yaml`" + "".join(f" `{setting}`" for setting in row.settings),
        f"{plan.gpus} x {plan.gpu.name}",
        f"{config.batch} x {config.optim.accumulate}",
        str(seen),
        f"**{cost.peak / GIB:.1f}**",
        f"{cost.flops_a_sample / 1e12:.1f}",
        f"{config.steps:,}",
        f"{hours:.0f}",
        f"{plan.dollars(hours):,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _variant(row: Row, config: TrainConfig, cost: Cost) -> str:
    sizes = [size / GIB for part, size in cost.memory.items() if part != "tagger"]
    tflops = sum(flops for part, flops in cost.flops.items() if part != "tagger") / cost.samples / 1e12
    cells = (row.name, str(config.batch), *(f"{size:.2f}" for size in sizes), f"**{sum(sizes):.1f}**")
    return f"| {' | '.join(cells)} | {tflops:.1f} |"


def _parts(cost: Cost) -> str:
    rows = {part: f"{flops / cost.samples / 1e12:.2f}" for part, flops in cost.flops.items()}
    return _table(rows | {"sum": f"{cost.flops_a_sample / 1e12:.2f}"})


def _table(rows: dict[str, str]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def details(name: str, config: TrainConfig, cost: Cost, plan: Plan) -> str:
    """All figures of one recipe, for a terminal."""
    model, hours = config.model, plan.hours(cost, config.steps)
    tables = {
        "trained parameters": {part: f"{count:,}" for part, count in cost.parameters.items()},
        "memory of a process (GiB)": {part: f"{size / GIB:.2f}" for part, size in cost.memory.items() if size}
        | {"sum": f"{cost.peak / GIB:.2f}"},
        "arithmetic of a step (TFLOP)": {part: f"{flops / 1e12:.2f}" for part, flops in cost.flops.items()}
        | {"sum": f"{sum(cost.flops.values()) / 1e12:.2f}"},
        f"{config.steps:,} steps on {plan.gpus} x {plan.gpu.name} at {plan.utilisation:.0%} of its arithmetic": {
            "hours": f"{hours:.1f}",
            "dollars": f"{plan.dollars(hours):,.0f}",
        },
    }
    lines = [
        f"{name}: base {model.base} in {model.base_dtype}, autocast {config.precision}, {config.batch} x "
        f"{config.optim.accumulate} samples of {config.data.resolution} px"
        f"{', recomputed blocks' if model.gradient_checkpointing else ''}"
    ]
    for title, rows in tables.items():
        widths = max(map(len, rows)), max(map(len, rows.values()))
        lines += [
            "",
            title,
            *(f"  {part:<{widths[0]}}  {value:>{widths[1]}}" for part, value in rows.items()),
        ]
    if cost.peak / GIB > plan.gpu.memory - 2:
        lines += [
            "",
            f"That is too much for {plan.gpu.name}: take a smaller batch, or model.gradient_checkpointing=true.",
        ]
    return "\n".join(lines)
