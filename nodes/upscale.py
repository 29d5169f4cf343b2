"""OSEDiff Upscale: the whole chain in one box, by expansion into the pack's other nodes."""

from __future__ import annotations

import logging

import comfy.sd
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder
from torch import Tensor

from ..osediff_core.errors import OptionError
from .folders import NONE, method_of
from .inputs import base_input, color_inputs, fidelity_input, scale_input, tile_input, weights_input
from .kept import keep_for
from .native.lora import attachment_of
from .native.tagger import NativeTagger
from .prompt import EMBEDDED_TAGGER, TaggerSocket

logger = logging.getLogger(__name__)

_SIDES = {
    "width": "Output width",
    "height": "Output height",
    "longest_side": "The output's longer side",
    "shortest_side": "The output's shorter side",
}
_LOADED = (
    "Of Load OSEDiff, connected together with the other two, for example with a LoRA between; base and weights are "
    "then not used."
)


class Upscale(io.ComfyNode):
    """For people in a hurry. Its models stay loaded from one picture to the next."""

    def __init__(self) -> None:
        super().__init__()
        keep_for(self)

    @classmethod
    def define_schema(cls) -> io.Schema:
        """IMAGE -> IMAGE."""
        return io.Schema(
            node_id="OSEDiff_Upscale",
            display_name="OSEDiff Upscale",
            category="OSEDiff",
            description="Restores and enlarges pictures in one box: Load OSEDiff, Load DAPE, DAPE Prompt, Encode LQ, "
            "One-Step Denoise and Tiled Decode with their usual settings.",
            search_aliases=["super resolution", "upscale image", "restore photo", "enhance", "esrgan"],
            enable_expand=True,
            inputs=[
                io.Image.Input("image", tooltip="One or more pictures or video frames, of any size."),
                scale_input(),
                base_input(),
                weights_input(),
                io.String.Input(
                    "prompt",
                    default="",
                    tooltip="What the picture shows, in addition to what the tagger finds. PiSA-SR, OMGSR-S and S3Diff "
                    "need none: empty is as they were trained, and no tags are looked for.",
                ),
                *color_inputs("color_fix", "color_weight"),
                tile_input(advanced=True),
                fidelity_input(optional=True),  # older graphs do not have it
                io.Model.Input("model", optional=True, tooltip=_LOADED),
                io.Clip.Input("clip", optional=True, tooltip=_LOADED),
                io.Vae.Input("vae", optional=True, tooltip=_LOADED),
                TaggerSocket.Input(
                    "tagger", optional=True, tooltip="Of Load DAPE; not connected: the embedded one."
                ),
                *(_side_input(name, meaning) for name, meaning in _SIDES.items()),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        scale: float,
        base: str,
        weights: str,
        prompt: str,
        color_fix: str,
        color_weight: float,
        tile: int,
        fidelity: float = 0.0,
        model: ModelPatcher | None = None,
        clip: comfy.sd.CLIP | None = None,
        vae: comfy.sd.VAE | None = None,
        tagger: NativeTagger | None = None,
        width: int = 0,
        height: int = 0,
        longest_side: int = 0,
        shortest_side: int = 0,
    ) -> io.NodeOutput:
        """The chain; every input that is not given here has its own node's default.

        Raises OptionError if only some of MODEL, CLIP and VAE are connected, or for two kinds of size.
        """
        width, height = _size(image, (width, height), longest_side, shortest_side)
        graph = GraphBuilder()
        parts: list[object] = [model, clip, vae]  # as given, or a node's outputs
        connected = [part is not None for part in parts]
        if not any(connected):
            loaded = graph.node(
                "OSEDiff_Load", base=base, weights=weights, unet_strength=1.0, vae_strength=1.0, dtype="auto"
            )
            parts = [loaded.out(slot) for slot in range(3)]
        elif not all(connected):
            raise OptionError("Only some of model, clip and vae are connected; connect all three or none.")
        unet, text_encoder, codec = parts
        method = method_of(weights) if model is None else attachment_of(model).method
        if method.prepare is not None:
            fitted = graph.node("OSEDiff_Fit", model=unet, vae=codec, image=image)
            unet, codec = fitted.out(0), fitted.out(1)
        strength: object = 1.0
        if fidelity != 0:
            adjusted = graph.node("OSEDiff_Fidelity", model=unet, vae=codec, fidelity=fidelity)
            unet, codec, strength = (adjusted.out(slot) for slot in range(3))
        encoded = graph.node(
            "OSEDiff_EncodeLQ",
            image=image,
            vae=codec,
            scale=scale,
            width=width,
            height=height,
            resize_method="bicubic",
            tile=0,
            posterior="mode",
            seed=0,
        )
        if method.reads_words:
            # enlarged, as the official code's tagger sees it
            positive = _tagged(graph, text_encoder, encoded.out(1), tagger, prompt)
        else:
            positive = _text(graph, text_encoder, prompt or method.default_prompt)
        guidance = method.guidance
        negative = {} if guidance is None else {"negative": _text(graph, text_encoder, guidance.negative)}
        denoised = graph.node(
            "OSEDiff_Denoise",
            model=unet,
            positive=positive,
            latent=encoded.out(0),
            tile=tile,
            overlap=tile // 3,
            strength=strength,
            cfg=1.0 if guidance is None else guidance.scale,
            **negative,
        )
        decoded = graph.node(
            "OSEDiff_Decode",
            latent=denoised.out(0),
            vae=codec,
            tile=0,
            color_fix=color_fix,
            color_weight=color_weight,
            reference=encoded.out(1),
        )
        return io.NodeOutput(decoded.out(0), expand=graph.finalize())


def _text(graph: GraphBuilder, clip: object, text: str) -> object:
    return graph.node("CLIPTextEncode", clip=clip, text=text).out(0)


def _tagged(
    graph: GraphBuilder, clip: object, image: object, tagger: NativeTagger | None, prompt: str
) -> object:
    """Tags of the picture, and words of the user's."""
    reader: object = tagger
    if tagger is None:
        logger.info("OSEDiff Upscale: tags come from the embedded tagger, which knows few.")
        reader = graph.node("OSEDiff_LoadDAPE", tagger=EMBEDDED_TAGGER, dape=NONE, dtype="auto").out(0)
    return graph.node(
        "OSEDiff_DAPEPrompt",
        clip=clip,
        image=image,
        tagger=reader,
        extra_prompt=prompt,
        exclude_tags="",
        threshold_offset=0.0,
        prompt_override="",
    ).out(0)


def _side_input(name: str, meaning: str) -> io.Input:
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=16384,
        optional=True,  # older graphs do not have it
        tooltip=f"{meaning} in pixels, instead of scale; the other follows. 0: not given.",
    )


def _size(image: Tensor, sides: tuple[int, int], longest: int, shortest: int) -> tuple[int, int]:
    """(width, height) for Encode LQ, 0 for what is not given. Raises OptionError for two kinds of size."""
    if bool(any(sides)) + bool(longest) + bool(shortest) > 1:
        raise OptionError(
            "More than one of width and height, longest_side and shortest_side is given; set the others to 0."
        )
    wide = image.shape[2] >= image.shape[1]
    if longest:
        return (longest, 0) if wide else (0, longest)
    if shortest:
        return (0, shortest) if wide else (shortest, 0)
    return sides
