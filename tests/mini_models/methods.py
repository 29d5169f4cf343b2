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


def write_lora_methods(folder: Path, unet: nn.Module, vae: nn.Module) -> None:
    """Those that are LoRA alone: pisa_sr.pkl, HYPIR's as dump.pth, and the folder omgsr."""
    torch.save(pisa_content(unet), folder / "pisa_sr.pkl")
    torch.save(hypir_content(unet), folder / "dump.pth")
    write_omgsr(folder / "omgsr", unet, vae)


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


def write_s3diff(folder: Path, unet: nn.Module, vae: nn.Module) -> None:
    """As s3diff.pkl and de_net.pth."""
    draw = torch.Generator().manual_seed(10)
    factors = _Factors()

    def mlp(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
        return {
            name.replace("_", "."): 0.1 * torch.randn(shape, generator=draw) for name, shape in shapes.items()
        }

    def lora(names: list[str], network: nn.Module, adapter: str) -> dict[str, Tensor]:
        return {
            f"{name}.lora_{factor}.{adapter}.weight": tensor
            for name in names
            for factor, tensor in factors(network.get_submodule(name)).items()
        }

    of_unet = [name for names in official_unet_lists(unet).values() for name in names if name != "conv_in"]
    of_vae = [f"encoder.{n}" for n, m in vae.encoder.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    content: dict[str, object] = {"rank_unet": RANK, "rank_vae": RANK, "w": torch.randn(64, generator=draw)}
    content["state_dict_unet"] = lora(of_unet, unet, "default") | {
        f"conv_in.{name}": p.detach() + 0.01 for name, p in unet.conv_in.named_parameters()
    }
    content["state_dict_vae"] = lora(of_vae, vae, "vae_skip")
    content["state_embeddings"] = {}
    for part, blocks in (("unet", 10), ("vae", 6)):
        content[f"state_dict_{part}_de_mlp"] = mlp(**{"0_weight": (256, 256), "0_bias": (256,)})
        content[f"state_dict_{part}_block_mlp"] = mlp(**{"0_weight": (64, 64), "0_bias": (64,)})
        content[f"state_dict_{part}_fuse_mlp"] = mlp(weight=(RANK**2, 320), bias=(RANK**2,))
        content["state_embeddings"][f"state_dict_{part}_block"] = mlp(weight=(blocks, 64))
    torch.save(content, folder / "s3diff.pkl")
    net = {}
    for branch in range(2):
        shapes = {f"conv_first.{branch}": (64, 3, 3, 3), f"body.{branch}.6": (128, 64, 3, 3)}
        for layer in (0, 1, 2, 3, 4, 5, 7, 8):
            width = 64 if layer < 6 else 128
            shapes |= {f"body.{branch}.{layer}.conv{i}": (width, width, 3, 3) for i in (1, 2)}
        shapes |= {f"fc_degree.{branch}.0": (512, 128), f"fc_degree.{branch}.2": (1, 512)}
        for name, shape in shapes.items():
            net[f"{name}.weight"] = torch.randn(shape, generator=draw) / shape[1] ** 0.5 / 3
            net[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=draw)
    torch.save(net, folder / "de_net.pth")
