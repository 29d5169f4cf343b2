"""The modules that OSEDiff adapts, by the official code's name-matching rules (osediff.py, initialize_unet/_vae)."""

from __future__ import annotations

from collections.abc import Iterable

_UNET_PATTERNS = (
    "to_k",
    "to_q",
    "to_v",
    "to_out.0",
    "conv",
    "conv1",
    "conv2",
    "conv_in",
    "conv_shortcut",
    "conv_out",
    "proj_out",
    "proj_in",
    "ff.net.2",
    "ff.net.0.proj",
)
_VAE_PATTERNS = (
    "conv1",
    "conv2",
    "conv_in",
    "conv_shortcut",
    "conv",
    "conv_out",
    "to_k",
    "to_q",
    "to_v",
    "to_out.0",
)


def unet_targets(parameter_names: Iterable[str]) -> dict[str, list[str]]:
    """Module names by group "encoder" (with conv_in), "decoder" (with conv_out), "others" (the mid block).

    `parameter_names` are those of the plain UNet (`named_parameters`, no adapters on), in its order, which is
    kept. SD 2.1 gives 94 / 148 / 16. Biases, norms and the time embedding are never matched.
    """
    groups: dict[str, list[str]] = {"encoder": [], "decoder": [], "others": []}
    for name in parameter_names:
        if "bias" in name or "norm" in name or not any(pattern in name for pattern in _UNET_PATTERNS):
            continue
        if "down_blocks" in name or "conv_in" in name:
            group = "encoder"
        elif "up_blocks" in name or "conv_out" in name:
            group = "decoder"
        else:
            group = "others"
        groups[group].append(name.replace(".weight", ""))
    return groups


def vae_targets(parameter_names: Iterable[str]) -> list[str]:
    """Module names of the VAE's encoder and quant_conv, one entry per matching pattern as in the official list.

    The duplicates mean nothing, but official files carry them (65 entries for SD 2.1's 32 modules). The
    decoder and post_quant_conv are not adapted: "decoder" does not contain "encoder".
    """
    modules = []
    for name in parameter_names:
        if "bias" in name or "norm" in name:
            continue
        for pattern in _VAE_PATTERNS:
            in_encoder = pattern in name and "encoder" in name
            if in_encoder or ("quant_conv" in name and "post_quant_conv" not in name):
                modules.append(name.replace(".weight", ""))
    return modules
