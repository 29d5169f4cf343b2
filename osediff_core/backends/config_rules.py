"""What the values in a base's configurations may be, field by field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..schedule import BETA_SCHEDULES, PREDICTION_TYPES

PARTS = UNET, VAE, TEXT = ("unet", "vae", "text_encoder")

_ACTIVATIONS = ("silu", "swish", "gelu", "mish", "relu")
_TEXT_ACTIVATIONS = ("gelu", "quick_gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "silu", "relu")


class Rule(NamedTuple):
    """What a value must be: the test, and the words for it."""

    holds: Callable[[Any], bool]
    words: str


def _whole(low: int, high: int) -> Rule:
    return Rule(lambda v: type(v) is int and low <= v <= high, f"a whole number from {low} to {high}")


def _number(low: float, high: float) -> Rule:
    """Above the lower and below the higher end."""

    def holds(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and low < value < high

    return Rule(holds, f"a number between {low:g} and {high:g}")


def _one_of(*names: str) -> Rule:
    return Rule(lambda v: isinstance(v, str) and v in names, f"one of {', '.join(names)}")


def _list(rule: Rule, most: int) -> Rule:
    return Rule(
        lambda v: isinstance(v, list) and 1 <= len(v) <= most and all(map(rule.holds, v)),
        f"a list of at most {most} values, each {rule.words}",
    )


def _either(*rules: Rule) -> Rule:
    return Rule(lambda v: any(rule.holds(v) for rule in rules), ", or ".join(rule.words for rule in rules))


_NULL = Rule(lambda v: v is None, "null")
_FLAG = Rule(lambda v: isinstance(v, bool), "true or false")
_LEVELS = 8  # Stable Diffusion has four
_SIZE = _whole(1, 16384)
_LAYERS = _whole(1, 16)
_HEADS = _either(_whole(1, 1024), _list(_whole(1, 1024), _LEVELS))
_EPSILON = _number(0, 1)
_RESOLUTION = _either(_NULL, _SIZE, _list(_SIZE, 2))  # of the training; nothing is computed by it

# What changes the result without changing a tensor's shape has to be said, as a library's default may be another's.
REQUIRED: dict[str, dict[str, Rule]] = {
    UNET: {
        "in_channels": _whole(1, 64),
        "out_channels": _whole(1, 64),
        "block_out_channels": _list(_SIZE, _LEVELS),
        "down_block_types": _list(_one_of("CrossAttnDownBlock2D", "DownBlock2D"), _LEVELS),
        "up_block_types": _list(_one_of("CrossAttnUpBlock2D", "UpBlock2D"), _LEVELS),
        "layers_per_block": _either(_LAYERS, _list(_LAYERS, _LEVELS)),
        "cross_attention_dim": _SIZE,
        "attention_head_dim": _HEADS,
        "norm_num_groups": _SIZE,
    },
    VAE: {
        "block_out_channels": _list(_SIZE, _LEVELS),
        "down_block_types": _list(_one_of("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), _LEVELS),
        "up_block_types": _list(_one_of("UpDecoderBlock2D", "AttnUpDecoderBlock2D"), _LEVELS),
        "latent_channels": _whole(1, 64),
        "layers_per_block": _LAYERS,
        "norm_num_groups": _SIZE,
    },
    TEXT: {
        "hidden_size": _SIZE,
        "intermediate_size": _whole(1, 65536),
        "num_hidden_layers": _whole(1, 128),
        "num_attention_heads": _whole(1, 1024),
        "vocab_size": _whole(1, 2**20),
        "max_position_embeddings": _whole(3, 4096),
        "hidden_act": _one_of(*_TEXT_ACTIVATIONS),
    },
}
# What has one meaning where it is not said.
OPTIONAL: dict[str, dict[str, Rule]] = {
    UNET: {
        "act_fn": _one_of(*_ACTIVATIONS),
        "center_input_sample": _FLAG,
        "conv_in_kernel": _whole(1, 9),
        "conv_out_kernel": _whole(1, 9),
        "downsample_padding": _whole(0, 4),
        "dropout": Rule(lambda v: v == 0 or _EPSILON.holds(v), "a number from 0 to below 1"),
        "dual_cross_attention": _FLAG,
        "flip_sin_to_cos": _FLAG,
        "freq_shift": Rule(lambda v: v == 0 or _number(-16, 16).holds(v), "a number between -16 and 16"),
        "mid_block_scale_factor": _number(0, 1000),
        "norm_eps": _EPSILON,
        "only_cross_attention": _either(_FLAG, _list(_FLAG, _LEVELS)),
        "resnet_out_scale_factor": _number(0, 1000),
        "sample_size": _RESOLUTION,
        "transformer_layers_per_block": _either(_LAYERS, _list(_LAYERS, _LEVELS)),
        "upcast_attention": _FLAG,
        "use_linear_projection": _FLAG,
    },
    VAE: {
        "act_fn": _one_of(*_ACTIVATIONS),
        "in_channels": _whole(3, 3),
        "out_channels": _whole(3, 3),
        "force_upcast": _FLAG,
        "mid_block_add_attention": _FLAG,
        "sample_size": _RESOLUTION,
        "scaling_factor": _number(0, 1000),
        "shift_factor": _either(_NULL, _number(-1000, 1000)),
        "use_post_quant_conv": _FLAG,
        "use_quant_conv": _FLAG,
    },
    TEXT: {
        "layer_norm_eps": _EPSILON,
        "projection_dim": _either(_NULL, _SIZE),
        "bos_token_id": _either(_NULL, _whole(0, 2**20)),
        "eos_token_id": _either(_NULL, _whole(0, 2**20)),
        "pad_token_id": _either(_NULL, _whole(-1, 2**20)),
    },
}
SCHEDULER: dict[str, Rule] = {
    "beta_schedule": _one_of(*BETA_SCHEDULES),
    "beta_start": _EPSILON,
    "beta_end": _EPSILON,
    "num_train_timesteps": _whole(1, 100_000),
}
SCHEDULER_OPTIONAL: dict[str, Rule] = {
    "prediction_type": _one_of(*PREDICTION_TYPES),
    "rescale_betas_zero_snr": _FLAG,
    "trained_betas": _either(_NULL, _list(_EPSILON, 100_000)),
}
