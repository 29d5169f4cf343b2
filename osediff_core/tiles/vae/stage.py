"""Stage of a VAE: the image whole or in tiles, by the memory that is free, smaller ones where it ends."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...choices import LEAST_VAE_MEMORY, LEAST_VAE_TILE, VAE_ATTENTIONS
from ...errors import OptionError, OutOfDisk, OutOfMemory
from ...layers import Attention, Network
from ...ports import Progress
from ...runtime.gradients import needs_gradients
from ...runtime.memory import explain_out_of_memory, free_memory, release_memory
from .features import FeatureStore
from .plan import (
    AttentionSweep,
    Budget,
    Sweep,
    attention_bytes,
    make_plan,
    most_features,
    multiplications,
    untiled_bytes,
    untiled_plan,
)
from .spill import disk_error, temporary_folder
from .walk import Walk

logger = logging.getLogger(__name__)

# What is measured as free is not all to be had, nor in one piece.
_SHARE = 0.6
_HOST_SHARE = 0.4  # of the host's memory, behind an accelerator
_POOLED_SIDE = 4
# Of the convolutions' work, what pooled attention may take: it then grows as the image's area does.
_POOLED_SHARE = 0.1
# What exact attention may always take under "auto", in multiplications: half a minute on two CPU cores, a minute on an
# accelerator.
_FREE_ATTENTION = 2**41
_FREE_ATTENTION_ACCELERATOR = 2**53
_HELP = (
    "The {stage} stage ran out of memory even in the smallest tiles; close other programs, use a smaller target size, "
    "fp16 or bf16, or another device."
)


@dataclass(frozen=True)
class VAETiling:
    """Tiles of the VAE: an image goes whole, or in tiles with the same result.

    tile: the tiles' side in image pixels. None: whole if memory suffices and attention is exact, else in tiles as
    memory allows. 0: always whole, with exact attention.
    memory: bytes that activations may take; None is a share of what is free. Feature maps that do not fit go to a
    nameless file in `folder` (None: the system's folder for temporary files). Attention's keys and values stay in
    memory even if they alone are more.
    attention: "exact"; "pooled": keys and values averaged over squares of 4 x 4 places, or of more, so that attention
    takes at most a tenth of the convolutions' work: another result by a little; "auto": exact, but where it would take
    longer than the convolutions and than half a minute, pooled as little as brings it down to that, with a warning.
    """

    tile: int | None = None
    memory: int | None = None
    attention: str = "auto"
    folder: Path | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for impossible values."""
        if self.tile is not None and self.tile < 0:
            raise OptionError(
                f"A VAE tile of {self.tile} pixels is impossible; use 1 or more, or 0 for none."
            )
        if self.memory is not None and self.memory < 1:
            raise OptionError(f"A memory of {self.memory} bytes is impossible; give more, or leave it out.")
        if self.attention not in VAE_ATTENTIONS:
            raise OptionError(
                f"VAE attention {self.attention!r} is unknown; use {', '.join(VAE_ATTENTIONS)}."
            )


AUTO = VAETiling()


def budget_of(tiling: VAETiling, device: torch.device) -> int:
    """Bytes that activations may take on the device."""
    if tiling.memory is not None:
        return tiling.memory
    return max(LEAST_VAE_MEMORY, int(free_memory(device) * _SHARE))


def goes_whole(network: Network, shape: Sequence[int], tiling: VAETiling, budget: int) -> bool:
    """Whether an input of shape (B, C, h, w) is left to the network itself, whose attention is exact and never idle."""
    if tiling.tile == 0:
        return True
    if any(isinstance(layer, Attention) and layer.idle() for layer in network.layers):
        return False  # the network itself would compute it, quadratic in the area
    images, _, height, width = shape
    plan = untiled_plan(network, height, width)
    if _pooled_side(plan, tiling.attention, network.device) > 1:
        return False
    if tiling.tile is not None:
        return max(height, width) * network.pixels <= tiling.tile
    return images * untiled_bytes(plan, network.dtype.itemsize) <= budget


def run(
    stage: str,
    network: Network | None,
    source: Tensor,
    whole: Callable[[], Tensor],
    tiling: VAETiling,
    progress: Progress | None = None,
) -> Tensor:
    """source (B, C, h, w) through the network: by whole() or in tiles, and in smaller ones where memory ends.

    stage: its name in errors. Where gradients are needed, or there are no layers to walk over, an image goes whole.
    Raises OptionError for tiles that would cut gradients off, OutOfMemory if not even the smallest tiles fit,
    OutOfDisk.
    """
    if network is None:
        return whole()
    if needs_gradients(network, source):
        if tiling.tile:
            raise OptionError("Tiles of the VAE pass no gradients; train with whole images (no VAE tile).")
        return whole()
    budget = budget_of(tiling, network.device)
    is_whole = goes_whole(network, source.shape, tiling, budget)
    while True:
        try:
            with explain_out_of_memory(stage):
                if is_whole:
                    return whole()
                return network.after(transform(network, network.before(source), tiling, budget, progress))
        except OutOfMemory:
            if tiling.tile == 0:
                raise
        # Outside of the handler, as the error's traceback holds the tensors that were too large.
        release_memory(network.device)
        if is_whole:
            held = untiled_bytes(untiled_plan(network, *source.shape[-2:]), network.dtype.itemsize)
            is_whole, budget = False, min(budget, held)
        elif budget <= LEAST_VAE_MEMORY:
            raise OutOfMemory(_HELP.format(stage=stage))
        budget = max(LEAST_VAE_MEMORY, budget // 2)
        if tiling.tile is not None:
            tiling = replace(tiling, tile=min(tiling.tile, max(LEAST_VAE_TILE, tiling.tile // 2)))
        logger.warning("%s ran out of memory; trying again in tiles, within %.2f GB", stage, budget / 1e9)


def transform(
    network: Network, source: Tensor, tiling: VAETiling, budget: int, progress: Progress | None = None
) -> Tensor:
    """source (B, C, h, w), on any device -> (B, C', h', w') in fp32 on the network's device, tile by tile.

    Through the layers alone, without what is `before` and `after` them; each image by itself; without gradients.
    budget: bytes of activations. progress(done, total): after each tile, the share of the work that is done, in
    tiles, as some of these take ten times as long as others; it may raise to stop the work.
    Raises OutOfDisk, and what the runtime raises when memory ends.
    """
    images, _, height, width = source.shape
    itemsize, device = network.dtype.itemsize, network.device
    split = Budget.of(budget, device.type, tiling.tile)
    plan = make_plan(network, height, width, split, itemsize)
    side = _pooled_side(plan, tiling.attention, device)
    if side > 1 and tiling.attention == "auto":
        _announce(side, plan)
    in_memory = max(0, split.features - attention_bytes(plan, itemsize, side))
    total, work = images * sum(sweep.tiles for sweep in plan), images * _work(plan, side)
    done = 0.0

    def step(sweep: Sweep | AttentionSweep) -> None:
        nonlocal done
        done += _work([sweep], side) / sweep.tiles
        if progress is not None:
            progress(min(total, round(total * done / work)), total)

    with torch.no_grad():
        last = plan[-1]
        shape = (images, last.out_channels, last.height, last.width)
        result = torch.empty(shape, dtype=torch.float32, device=network.result_device or device)
        for image in range(images):
            store = _feature_store(in_memory, most_features(plan, itemsize), tiling.folder, device)
            one = slice(image, image + 1)
            Walk(network, plan, store, step, side).run(source[one], result[one])
    return result


def _work(plan: list[Sweep | AttentionSweep], side: int) -> float:
    """Multiplications, with keys and values averaged over squares of that side."""
    convolutions, attention = multiplications(plan)
    return convolutions + attention / side**2


def _feature_store(in_memory: int, needed: int, folder: Path | None, device: torch.device) -> FeatureStore:
    """Memory for the feature maps: the device's memory, behind an accelerator the host's, then a file."""
    behind = int(free_memory(torch.device("cpu")) * _HOST_SHARE) if device.type != "cpu" else 0
    on_disk = needed - in_memory - behind
    folder = folder or temporary_folder()
    if on_disk > 0:
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise disk_error(error, folder) from error
        if free < on_disk:
            raise OutOfDisk(
                f"The VAE's features of this image need {on_disk / 1e9:.1f} GB of disk, but {folder} has "
                f"{free / 1e9:.1f} GB free; point TMPDIR at a larger disk, allow more memory, or use a smaller target "
                "size."
            )
        logger.info("up to %.1f GB of the VAE's features go to a file in %s", on_disk / 1e9, folder)
    return FeatureStore(device, in_memory, behind, folder)


def _pooled_side(plan: list[Sweep | AttentionSweep], attention: str, device: torch.device) -> int:
    """The side of the squares over which keys and values are averaged; 1 is exact."""
    convolutions, exact = multiplications(plan)
    if attention == "exact" or not exact:
        return 1
    if attention == "pooled":
        return max(_POOLED_SIDE, math.ceil(math.sqrt(exact / (_POOLED_SHARE * convolutions))))
    allowed = _FREE_ATTENTION if device.type == "cpu" else _FREE_ATTENTION_ACCELERATOR
    return max(1, math.ceil(math.sqrt(exact / max(convolutions, allowed))))


def _announce(side: int, plan: list[Sweep | AttentionSweep]) -> None:
    convolutions, exact = multiplications(plan)
    logger.warning(
        "the VAE's attention sees keys averaged over %d x %d places, as exact attention over an image of this size "
        "would take %.0f times as long as the rest of the VAE; to have it all the same, ask for exact attention",
        side,
        side,
        exact / convolutions,
    )
