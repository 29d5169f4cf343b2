"""The launch of a run: what accelerate made of the command, against what was asked for."""

from __future__ import annotations

import os

from accelerate import Accelerator
from accelerate.utils import DistributedType

from osediff_core.errors import OptionError

from .errors import TrainingError

# How launchers tell a process how many there are: torchrun and accelerate, srun, mpirun.
_SIZES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def start_accelerator(device: str, not_wrapped: str) -> Accelerator:
    """Join the other processes on the device that the settings name.

    not_wrapped: what to say of a launch with FSDP or DeepSpeed. Raises TrainingError for such a launch, and for a
    process that is alone though more were asked for; OptionError for a device that this launch does not give.
    """
    # Precision and loss scale are ours, one scale for each optimiser: accelerate would share one.
    accelerator = Accelerator(mixed_precision="no", cpu=device == "cpu")
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise TrainingError(not_wrapped)
    if accelerator.num_processes == 1 and (asked := _asked_for()):
        raise TrainingError(
            f"The launch asked for {asked} processes, but this one is alone; start them by torchrun --nproc_per_node N "
            "training/train.py ..., as accelerate launch starts several only on GPUs."
        )
    if device not in ("auto", accelerator.device.type):
        raise OptionError(
            f"device is {device}, but this PyTorch and launch give {accelerator.device.type}; use device=auto, or mend "
            "what should give the other."
        )
    return accelerator


def _asked_for() -> str:
    """How many processes, if more than one."""
    for name in _SIZES:
        size = os.environ.get(name, "")
        if size.isdecimal() and int(size) > 1:
            return size
    # accelerate launch without a GPU starts one process whatever it was told; that it was told shows in the port only.
    started_alone = "ACCELERATE_USE_CPU" in os.environ and "WORLD_SIZE" not in os.environ
    return "several" if started_alone and "MASTER_PORT" in os.environ else ""
