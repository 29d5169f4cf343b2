"""The frozen UNet split over the ranks (PyTorch's fully_shard): each holds 1/N of it and gathers a block when it runs.

What is trained stays whole on every rank, as for plain DDP: some million numbers, whose gradients the two losses'
modules synchronise. So nothing else of the trainer, its optimisers and its checkpoints knows of the split. Wrapping the
losses themselves in FSDP or DeepSpeed, as accelerate does, could not work: both losses share the one frozen network.
"""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist
from diffusers import UNet2DConditionModel
from torch import nn
from torch.distributed.tensor import DTensor

from .run.errors import TrainingError

log = logging.getLogger("training")


def shard_frozen(unet: UNet2DConditionModel, device: torch.device) -> None:
    """Split the frozen parameters of a diffusers UNet over all ranks, block by block.

    From then on every rank must call it equally often, as each call gathers from all.
    Raises TrainingError if there is one process only.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        raise TrainingError(
            "model.shard_base splits the base over several processes and there is one; launch several "
            "(training/configs/accelerate/ddp.yaml) or leave it out."
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # A group of parameters travels as one tensor, so it has one dtype; norms kept in fp32 are small.
    dtype = unet.conv_out.weight.dtype
    whole = {p for p in unet.parameters() if p.requires_grad or p.dtype != dtype}
    before = _frozen_bytes(unet)
    assert unet.mid_block is not None
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks, unet):
        fully_shard(block, mesh=mesh, ignored_params=whole)
    share = _frozen_bytes(unet) / before
    log.info("each of %d processes keeps %.0f %% of the frozen UNet", dist.get_world_size(), 100 * share)


def _frozen_bytes(unet: nn.Module) -> int:
    """Of what this rank holds."""
    frozen = (p for p in unet.parameters() if not p.requires_grad)
    local = (p.to_local() if isinstance(p, DTensor) else p for p in frozen)
    return sum(p.numel() * p.element_size() for p in local)
