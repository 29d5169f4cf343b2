"""HYPIR's file: one LoRA of the UNet as a flat dict of tensors, without its rank, its alpha or a mark of its own."""

from __future__ import annotations

from ...method import Method
from ..one_step_weights import LoRASet, OneStepWeights, common_rank
from ..tensor_file import TensorFile
from . import peft_names
from .format import Format

METHOD = "hypir"
_PUBLISHED_RANK = 256
_OTHERS_PROMPTS = {768, 1280, 2048}  # features of the prompts that Stable Diffusion 1.x and SDXL read
# what the names of the adapted modules end with; neither conv_in nor the time embedding
_TARGETS = (
    *("to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_shortcut", "conv_out"),
    *("proj_in", "proj_out", "ff.net.2", "ff.net.0.proj"),
)


def recognise(file: TensorFile) -> bool:
    """By the published rank everywhere, also in layers that are smaller, and by exactly its modules.

    The same names with another rank may be anybody's training, of which nothing says at which timestep it was.
    """
    modules = peft_names.modules_in(file.shapes) or set()
    return (
        resembles(file)
        and all(name.endswith(".default.weight") for name in file.shapes)
        and all(any(module.endswith(target) for module in modules) for target in _TARGETS)
        and not {s[1] for n, s in file.shapes.items() if "attn2.to_k.lora_A" in n} & _OTHERS_PROMPTS
        and {shape[0] for name, shape in file.shapes.items() if ".lora_A." in name} == {_PUBLISHED_RANK}
    )


def resembles(file: TensorFile) -> bool:
    """Any LoRA of modules that HYPIR adapts; conv_in, which others do, is not one of them."""
    modules = peft_names.modules_in(file.shapes) or set()
    return peft_names.is_unet(file) and all(module.endswith(_TARGETS) for module in modules)


def read(file: TensorFile) -> OneStepWeights:
    """The weights; alpha is the rank, so that the scale is 1."""
    pairs, missing, unexpected = peft_names.pairs_of(file.tensors())
    return OneStepWeights(
        METHOD,
        (LoRASet(pairs, rank=common_rank(pairs) or 1, scale=1.0),),
        metadata={"timestep": "200", "prediction_type": "epsilon", "base": ABOUT.base},
        source=str(file.path),
        missing=[f"unet {name}" for name in missing],
        unexpected=[f"unet {name}" for name in unexpected],
    )


ABOUT = Method(
    title="HYPIR",
    base="stable-diffusion-2-1-base",
    prompt="what the picture shows, in words of your own, or empty",
    color_fix="wavelet",
    licence="HYPIR's own: non-commercial use only, nothing else without its authors' permission",
    source="https://github.com/XPixelGroup/HYPIR",
    advice="Trained on pictures of at least 512 pixels a side: choose a scale that gives so many.",
)
FORMAT = Format(METHOD, "HYPIR weights", recognise, read, about=ABOUT, resembles=resembles)
