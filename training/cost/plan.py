"""Hours and money of a run, from its arithmetic and assumptions that are said."""

from __future__ import annotations

from dataclasses import dataclass

from osediff_core.errors import OptionError

from .measure import Cost


@dataclass(frozen=True)
class GPU:
    """name; teraflops: dense fp16 with fp32 sums, by its data sheet; memory in GiB; price in dollars an hour, of what
    is rented, in late 2026 a guess that `--price` corrects."""

    name: str
    teraflops: float
    memory: float
    price: float


GPUS = {
    "rtx4090": GPU("RTX 4090, 24 GB", 165, 24, 0.4),
    "a100": GPU("A100, 80 GB", 312, 80, 1.5),
    "h100": GPU("H100 SXM, 80 GB", 989, 80, 2.5),
}
# Assumed share of the data sheet's arithmetic; convolutions of one picture at a time reach less than language models.
UTILISATION = 0.3


@dataclass(frozen=True)
class Plan:
    """Where a run is done. price: of a GPU and hour; None for the GPU's."""

    gpu: GPU
    gpus: int = 1
    utilisation: float = UTILISATION
    price: float | None = None

    def __post_init__(self) -> None:
        if self.gpus < 1 or not 0 < self.utilisation <= 1 or (self.price or 0) < 0:
            raise OptionError("--gpus must be 1 or more, --utilisation within 0 and 1, --price 0 or more.")

    def hours(self, cost: Cost, steps: int) -> float:
        """Of the whole run; every process does a step's arithmetic."""
        return steps * sum(cost.flops.values()) / (self.gpu.teraflops * 1e12 * self.utilisation) / 3600

    def dollars(self, hours: float) -> float:
        """For all GPUs."""
        return hours * self.gpus * (self.gpu.price if self.price is None else self.price)
