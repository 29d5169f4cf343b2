"""Devices and dtypes by name, and what "auto" chooses."""

from __future__ import annotations

import torch

from .. import choices
from ..errors import OptionError

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, long) for name, long in choices.DTYPES.items()}
_LONG_NAMES = {long: name for name, long in choices.DTYPES.items()} | {"half": "fp16", "float": "fp32"}


def parse_device(device: str | torch.device = "auto") -> torch.device:
    """The device meant by "auto", "cpu", "cuda", "cuda:1", "mps", "xpu" or a torch.device.

    "auto" is the first accelerator that this PyTorch can use, else the CPU.
    Raises OptionError for an unknown device or one that is not there.
    """
    if device == "auto":
        for kind in ("cuda", "xpu", "mps"):
            if _available(kind):
                return torch.device(kind)
        return torch.device("cpu")
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"Device {device!r} is unknown; use auto, cpu, cuda, mps or xpu.") from error
    if parsed.type == "meta" or not _available(parsed.type) or not _has_index(parsed):
        raise OptionError(
            f"Device '{parsed}' is not available to this PyTorch ({torch.__version__}); use --device cpu, or "
            "install a PyTorch built for that device."
        )
    return parsed


def all_devices() -> list[str]:
    """Every accelerator of the kind that "auto" takes, or the CPU."""
    kind = parse_device("auto").type
    if kind in ("cpu", "mps"):
        return [kind]
    return [f"{kind}:{index}" for index in range(getattr(torch, kind).device_count())]


def parse_dtype(dtype: str | torch.dtype = "auto", device: str | torch.device = "cpu") -> torch.dtype:
    """The dtype meant by "auto", "fp32", "fp16", "bf16" (or a torch.dtype) on a device.

    "auto": fp16 on an accelerator (as the official code; half the memory), fp32 on the CPU, where results should not
    depend on which one it is; one with bf16 instructions is faster in bf16 (docs/speed.md), others are slower in it.
    Raises OptionError for anything else.
    """
    if dtype == "auto":
        return torch.float32 if torch.device(device).type == "cpu" else torch.float16
    name = str(dtype).removeprefix("torch.")
    name = _LONG_NAMES.get(name, name)
    if name not in DTYPES:
        raise OptionError(f"Precision {str(dtype)!r} is unknown; use auto, fp32, fp16 or bf16.")
    return DTYPES[name]


def _available(kind: str) -> bool:
    if kind == "cpu":
        return True
    if kind == "mps":
        return torch.backends.mps.is_available()
    backend = getattr(torch, kind, None)
    return bool(backend is not None and hasattr(backend, "is_available") and backend.is_available())


def _has_index(device: torch.device) -> bool:
    if device.index is None:
        return True
    if device.type in ("cpu", "mps"):
        return device.index == 0
    return device.index < getattr(torch, device.type).device_count()


def short_name(dtype: torch.dtype) -> str:
    """torch.float16 -> "fp16" and so on."""
    return next((name for name, value in DTYPES.items() if value == dtype), str(dtype))
