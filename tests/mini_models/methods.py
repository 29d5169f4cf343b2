"""Weights of other one-step methods for a small base, random, in the formats of their authors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mini_models.checkpoints import official_unet_lists

RANK = 4


class _Factors:
    """LoRA factors of about 0.1, drawn one after the other."""

    def __init__(self) -> None:
        self.draw = torch.Generator().manual_seed(8)

    def __call__(self, module: nn.Linear | nn.Conv2d, rank: int = RANK) -> dict[str, Tensor]:
        out, *inner = module.weight.shape
        a, b = (rank, *inner), (out, rank, *[1] * (len(inner) - 1))
        return {f: 0.1 * torch.randn(shape, generator=self.draw) for f, shape in (("A", a), ("B", b))}


def pisa_content(unet: nn.Module) -> dict[str, object]:
    """As pisa_sr.pkl."""
    factors, content, tensors = _Factors(), {}, {}
    modules = dict(unet.named_modules())
    for level in ("pix", "sem"):
        for group, names in official_unet_lists(unet).items():
            content[f"unet_lora_{group}_modules_{level}"] = names
            for name in names:
                for factor, tensor in factors(modules[name]).items():
                    tensors[f"{name}.lora_{factor}.default_{group}_{level}.weight"] = tensor
    ranks = {f"lora_rank_unet_{level}": RANK for level in ("pix", "sem")}
    return {**content, **ranks, "state_dict_unet": tensors}


def hypir_content(unet: nn.Module) -> dict[str, Tensor]:
    """As HYPIR_sd2.pth, but for its rank."""
    factors = _Factors()
    return {
        f"{name}.lora_{factor}.default.weight": tensor
        for names in official_unet_lists(unet).values()
        for name in names
        if name != "conv_in"
        for factor, tensor in factors(unet.get_submodule(name)).items()
    }


def write_omgsr(folder: Path, unet: nn.Module, vae: nn.Module) -> None:
    """As OMGSR-S's folder, but that alpha is half the rank: the scale must come from the config."""
    ends = (
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
    factors = _Factors()
    for half, network in (("unet_lora_adapter", unet), ("vae_encoder_lora_adapter", vae.encoder)):
        tensors = {
            f"base_model.model.{name}.lora_{factor}.weight": tensor
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and name.endswith(ends)
            for factor, tensor in factors(module).items()
        }
        (folder / half).mkdir(parents=True)
        save_file(tensors, folder / half / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK // 2}
        (folder / half / "adapter_config.json").write_text(json.dumps(config))


def write_adcsr(folder: Path) -> None:
    """As net_params_200.pkl, with every block's second name, and halfDecoder.ckpt, both at a tenth of the width."""
    from diffusers.models.autoencoders.vae import Decoder

    from osediff_core.direct.adcsr import AdcSR

    with torch.random.fork_rng():
        torch.manual_seed(9)
        widths, half = (24, 48, 48, 48), [32, 32, 64, 64]
        network = AdcSR(widths, (2, 4, 4, 8, 8), half)
        decoder = Decoder(4, 3, ("UpDecoderBlock2D",) * 4, tuple(half), 2)
    student = network.student.state_dict()
    again = {
        f"body.0.{n.removeprefix('down_blocks.0.')}": t for n, t in student.items() if "down_blocks.0." in n
    }
    middle = network.decoder.mid_block.state_dict()
    content = {f"module.body.1.{name}": tensor for name, tensor in (student | again).items()}
    torch.save(
        content | {f"module.body.2.{name}": t for name, t in middle.items()}, folder / "net_params_200.pkl"
    )
    state = {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    torch.save({"state_dict": state}, folder / "halfDecoder.ckpt")
