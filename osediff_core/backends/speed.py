"""What makes a loaded generator faster, each a switch with its gain and its price.

The figures are those of docs/speed.md (`python -m benchmarks.speed`): SD 2.1's full size, 256 x 256 pixels, two cores
with AVX-512 bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ..runtime.device import weights_in_fp32

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.models.attention_processor import Attention


@dataclass(frozen=True)
class Speed:
    """Switches; None is "where it pays": in half precision on the CPU.

    fold_timestep: T never changes, so what the UNet's blocks make of it is added to biases once. Drops 0.1 GB of
        weights in fp32; no gain in time that could be measured, and no cost (131.5 dB with and without).
    channels_last: convolutions on channels-last tensors, which oneDNN prefers: 1.11 times as fast in bf16, for 0.3 dB
        (50.3 instead of 50.6). In fp32 it is off because PyTorch's group norm of that layout is off by up to 7e-4 on
        the CPU.
    half_attention: attention by matrix products in half precision, a slice of queries at a time, as PyTorch's fused
        one computes in fp32 inside on a CPU: 1.01 times as fast in bf16, for nothing that could be
        measured (50.3 dB with and without).
    compile: torch.compile of the UNet, and of the VAE's encoder and decoder where an image goes whole through them (its
        tiles take the layers one by one, uncompiled). The first picture of each size waits for the compiler (minutes on
        a CPU, which needs a C++ compiler), so it pays for many pictures of one size. On `tiny` the result is at most
        one of 255 levels off; the gain at full size was not measured.
    """

    fold_timestep: bool = True
    channels_last: bool | None = None
    half_attention: bool | None = None
    compile: bool = False


def apply_speed(
    speed: Speed, unet: UNet2DConditionModel, vae: AutoencoderKL, dtype: torch.dtype, device: torch.device
) -> None:
    """Apply the switches but fold_timestep to networks whose weights are on their way to `dtype` and `device`."""
    pays = device.type == "cpu" and dtype != torch.float32
    for module in (unet, vae):
        if pays if speed.channels_last is None else speed.channels_last:
            module.to(memory_format=torch.channels_last)
        if pays if speed.half_attention is None else speed.half_attention:
            module.set_attn_processor(HalfAttention())
    if speed.compile:
        # in place, so that weights keep their names; what is compiled is a module's __call__, which a VAE's encode and
        # decode go around
        for module in (unet, vae.encoder, vae.decoder):
            module.compile()


@torch.no_grad()
def fold_timestep(unet: UNet2DConditionModel, timestep: int) -> None:
    """Add what each residual block makes of the timestep's embedding to the bias of its first convolution.

    From then on the UNet is for this timestep alone, whatever it is called with. The biases become fp32, to be cast
    with the rest. Blocks whose embedding also scales (none of Stable Diffusion's do) stay as they are.
    """
    with weights_in_fp32(unet.time_embedding):
        steps = torch.tensor([timestep], device=unet.conv_in.weight.device)
        embedding = unet.time_embedding(unet.time_proj(steps).float())
    for block in unet.modules():
        if not isinstance(block, ResnetBlock2D) or block.time_embedding_norm != "default":
            continue
        with weights_in_fp32(block.time_emb_proj):
            shift = block.time_emb_proj(block.nonlinearity(embedding))[0]
        block.conv1.bias.data = block.conv1.bias.float() + shift
        block.time_emb_proj = None
        block.register_forward_pre_hook(_without_timestep, with_kwargs=True)


def _without_timestep(_block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    return (args[0], None), {key: value for key, value in kwargs.items() if key != "temb"}


class HalfAttention:
    """An attention processor of diffusers: softmax(q k^T / sqrt(d)) v in the tensors' own dtype, sliced over queries.

    The score matrix of a slice is at most `slice_size` x keys, so memory grows with the keys, not their square.
    """

    slice_size = 512

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """hidden_states (B, N, D), or (B, D, H, W) in a VAE; encoder_hidden_states (B, L, E) -> as hidden_states."""
        if attention_mask is not None:
            raise NotImplementedError(
                "HalfAttention knows no masks; Stable Diffusion's UNet and VAE use none."
            )
        tokens, shape = hidden_states, hidden_states.shape
        if tokens.dim() == 4:
            tokens = tokens.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            tokens = attn.group_norm(tokens.transpose(1, 2)).transpose(1, 2)
        context = tokens if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(tokens), attn.to_k(context), attn.to_v(context)
        out = attn.to_out[0](self._attend(query, key, value, attn.heads))
        if hidden_states.dim() == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor if attn.rescale_output_factor != 1 else out

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """query (B, N, heads d), key and value (B, L, heads d) -> (B, N, heads d)."""
        out = torch.empty_like(query)
        width = query.shape[-1] // heads
        for b in range(query.shape[0]):
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                keys = (key[b, :, part] * width**-0.5).t()
                values = value[b, :, part].contiguous()
                for start in range(0, query.shape[1], self.slice_size):
                    rows = slice(start, start + self.slice_size)
                    scores = query[b, rows, part] @ keys
                    out[b, rows, part] = scores.softmax(-1) @ values
        return out
