"""A diffusers model's tensors under the names of single-file Stable Diffusion checkpoints, for tests.

Written from the original authors' module structure, not by inverting the converter under test.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_TEXT_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_LAYERS = 2  # resnets per down block of SD's UNet and VAE encoder


def single_file(
    unet: dict[str, Tensor], vae: dict[str, Tensor], text: dict[str, Tensor]
) -> dict[str, Tensor]:
    """One flat checkpoint as SD 2.1 has it, with the things beside the three parts that such files hold."""
    attention_ups = {m[1] for key in unet if (m := re.match(r"up_blocks\.(\d+)\.attentions", key))}
    out = {f"model.diffusion_model.{_unet(key, attention_ups)}": value for key, value in unet.items()}
    for key, value in vae.items():
        name = _vae(key)
        as_conv = ".attn_1." in name and value.dim() == 2  # the originals are 1x1 convolutions
        out[f"first_stage_model.{name}"] = value[..., None, None].contiguous() if as_conv else value
    out.update({f"cond_stage_model.model.{key}": value for key, value in _text(text).items()})
    width = text["text_model.final_layer_norm.weight"].shape[0]
    out["cond_stage_model.model.text_projection"] = torch.zeros(width, width)
    out["cond_stage_model.model.logit_scale"] = torch.tensor(1.0)
    out["cond_stage_model.model.transformer.resblocks.23.ln_1.weight"] = torch.ones(width)
    out["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    out["model_ema.decay"] = torch.tensor(0.9999)
    return out


def _swap(name: str, table: dict[str, str]) -> str:
    for new, old in table.items():
        if name == new or name.startswith(new + "."):
            return old + name[len(new) :]
    return name


def _unet(key: str, attention_ups: set[str]) -> str:
    if m := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", key):
        side, block, kind, layer, rest = m.groups()
        if side == "down":
            place = f"input_blocks.{int(block) * (_LAYERS + 1) + int(layer) + 1}"
        else:
            place = f"output_blocks.{int(block) * (_LAYERS + 1) + int(layer)}"
        return f"{place}.0.{_swap(rest, _RESNET)}" if kind == "resnets" else f"{place}.1.{rest}"
    if m := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", key):
        return f"input_blocks.{(int(m[1]) + 1) * (_LAYERS + 1)}.0.op.{m[2]}"
    if m := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", key):
        last = int(m[1]) * (_LAYERS + 1) + _LAYERS
        return f"output_blocks.{last}.{2 if m[1] in attention_ups else 1}.conv.{m[2]}"
    if m := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        if m[1] == "attentions":
            return f"middle_block.1.{m[3]}"
        return f"middle_block.{2 * int(m[2])}.{_swap(m[3], _RESNET)}"
    return _swap(key, _UNET_ENDS)


def _vae(key: str) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if m := re.match(r"(encoder|decoder)\.(down|up)_blocks\.(\d)\.(.*)", key):
        level = int(m[3]) if m[2] == "down" else 3 - int(m[3])
        rest = m[4].replace("resnets.", "block.").replace(f"{m[2]}samplers.0.", f"{m[2]}sample.")
        return f"{m[1]}.{m[2]}.{level}.{rest}"
    if m := re.match(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.*)", key):
        return f"{m[1]}.mid.block_{int(m[2]) + 1}.{m[3]}"
    if m := re.match(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.*)", key):
        return f"{m[1]}.mid.attn_1.{_swap(m[2], _VAE_ATTENTION)}"
    return key


def _text(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for key, value in tensors.items():
        key = key.removeprefix("text_model.")
        if m := re.match(r"encoder\.layers\.(\d+)\.(.*)", key):
            layer, rest = f"transformer.resblocks.{m[1]}", m[2]
            if q := re.match(r"self_attn\.q_proj\.(weight|bias)", rest):
                parts = [
                    tensors[f"text_model.{key.replace('q_proj', p)}"] for p in ("q_proj", "k_proj", "v_proj")
                ]
                out[f"{layer}.attn.in_proj_{q[1]}"] = torch.cat(parts)
            elif not re.match(r"self_attn\.[kv]_proj", rest):
                out[f"{layer}.{_swap(rest, _TEXT_LAYER)}"] = value
        elif key == "embeddings.position_embedding.weight":
            out["positional_embedding"] = value
        else:
            out[
                _swap(key, {"embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final"})
            ] = value
    return out
