"""Files of diffusion's other trades, which belong neither in the place of weights nor of a base: named, not run."""

from __future__ import annotations

from collections.abc import Mapping

from .tensor_file import TensorFile

# what it is -> what begins one of its tensors' names, or the key of its dict
_SIGNS = {
    "a ControlNet": ("control_model.", "controlnet_", "lora_controlnet", "input_hint_block."),
    "an IP-Adapter": ("ip_adapter", "image_proj"),
    "a T2I-Adapter": ("body.0.in_conv.", "adapter.body.0.in_conv."),
    "a textual inversion": ("emb_params", "string_to_param", "clip_g", "clip_l"),
    "an image encoder": ("vision_model.", "visual.transformer.", "visual.conv1."),
    "a text encoder": ("transformer.resblocks.", "encoder.block.0.", "shared.weight", "cond_stage_model."),
    "a VAE": ("first_stage_model.", "decoder.conv_in.", "decoder.mid."),
    "a face restoration network": ("stylegan_decoder.",),
}


def other_model(file: TensorFile) -> str | None:
    """What a file is, if it is one of these."""
    names = [*file.shapes, *(map(str, file.content) if isinstance(file.content, Mapping) else ())]
    if any("motion_modules." in name for name in names):
        return "a motion module"
    if len(names) == 1 and names[0].startswith("<") and names[0].endswith(">"):
        return "a textual inversion"
    return next((what for what, signs in _SIGNS.items() if any(n.startswith(signs) for n in names)), None)
