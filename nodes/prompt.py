"""DAPE Prompt: what the picture shows, as conditioning. Load DAPE: the tagger that reads it from the picture."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import comfy.sd
import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..osediff_core.errors import OptionError
from .folders import FOLDER, NONE
from .inputs import dtype_input

logger = logging.getLogger(__name__)

TaggerSocket = io.Custom("OSEDIFF_TAGGER")
EMBEDDED_TAGGER = "embedded"


@dataclass(frozen=True)
class Tagger:
    """A socket's value; in this version the only tagger is the one that finds no tags."""

    def tag(self, image: Tensor, exclude: list[str], threshold_offset: float) -> list[list[str]]:
        """IMAGE (B, H, W, C) -> the tags of each picture."""
        logger.info("This version has no tagger: the prompt is the text alone.")
        return [[] for _ in range(image.shape[0])]


class LoadDAPE(io.ComfyNode):
    """The tagger's weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """-> OSEDIFF_TAGGER."""
        files = folder_paths.get_filename_list(FOLDER)
        return io.Schema(
            node_id="OSEDiff_LoadDAPE",
            display_name="Load DAPE",
            category="OSEDiff",
            description="Loads the tagger that reads a prompt from a degraded picture. This version of the pack cannot "
            "run one yet: DAPE Prompt then uses its text alone, and graphs stay as they are when it can.",
            search_aliases=["ram", "recognize anything", "tagger", "prompt extractor"],
            inputs=[
                io.Combo.Input(
                    "tagger",
                    options=[EMBEDDED_TAGGER, *files],
                    default=EMBEDDED_TAGGER,
                    tooltip="'embedded' comes with the pack; in this version it finds no tags. Files lie in "
                    "models/osediff.",
                ),
                io.Combo.Input(
                    "dape",
                    options=[NONE, *files],
                    default=NONE,
                    advanced=True,
                    tooltip="DAPE's own file (DAPE.pth), if it is not part of the tagger's.",
                ),
                dtype_input(),
            ],
            outputs=[TaggerSocket.Output("tagger", display_name="tagger")],
        )

    @classmethod
    def execute(cls, tagger: str, dape: str, dtype: str) -> io.NodeOutput:
        """Raises OptionError for a file, which this version cannot run."""
        if tagger != EMBEDDED_TAGGER or dape != NONE:
            raise OptionError(
                "This version of the pack cannot run a tagger from a file; choose 'embedded' and 'none', and write "
                "what the picture shows into DAPE Prompt."
            )
        return io.NodeOutput(Tagger())


class DAPEPrompt(io.ComfyNode):
    """Tags and text -> conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """CLIP, IMAGE, tagger -> CONDITIONING, STRING."""
        return io.Schema(
            node_id="OSEDiff_DAPEPrompt",
            display_name="DAPE Prompt",
            category="OSEDiff",
            description="The prompt of the one step: what the tagger sees in the picture, and your own words. Without "
            "a tagger the words alone; they may be empty. This version has no tagger that finds tags.",
            search_aliases=["clip text encode", "prompt", "tags", "caption"],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of Load OSEDiff or of the base's loader."),
                io.Image.Input(
                    "image",
                    optional=True,
                    lazy=True,
                    tooltip="The picture to be read, before it is enlarged.",
                ),
                TaggerSocket.Input(
                    "tagger",
                    optional=True,
                    lazy=True,
                    tooltip="Of Load DAPE; not connected: your words alone.",
                ),
                io.String.Input(
                    "extra_prompt",
                    default="",
                    multiline=True,
                    tooltip="Words put behind the tags, as in the official code; ComfyUI's weight syntax works.",
                ),
                io.String.Input(
                    "exclude_tags",
                    default="",
                    advanced=True,
                    tooltip="Tags that are left out, with commas between them.",
                ),
                io.Float.Input(
                    "threshold_offset",
                    default=0.0,
                    min=-0.5,
                    max=0.5,
                    step=0.01,
                    advanced=True,
                    tooltip="Added to every tag's threshold: above 0 fewer tags, below 0 more.",
                ),
                io.String.Input(
                    "prompt_override",
                    default="",
                    multiline=True,
                    advanced=True,
                    tooltip="If not empty, this is the whole prompt, and the tagger is not even loaded.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    tooltip="For One-Step Denoise; with several pictures, one prompt for each."
                ),
                io.String.Output(
                    "prompt", display_name="prompt", tooltip="The prompt used, a line for each picture."
                ),
            ],
        )

    @classmethod
    def check_lazy_status(cls, prompt_override: str, **connected: object) -> list[str]:
        """With an override neither picture nor tagger is asked for; what is not connected never is."""
        if prompt_override.strip():
            return []
        return [name for name in ("image", "tagger") if name in connected and connected[name] is None]

    @classmethod
    def execute(
        cls,
        clip: comfy.sd.CLIP,
        extra_prompt: str,
        exclude_tags: str,
        threshold_offset: float,
        prompt_override: str,
        image: Tensor | None = None,
        tagger: Tagger | None = None,
    ) -> io.NodeOutput:
        """Raises OptionError for a CLIP that is missing."""
        if clip is None:
            raise OptionError("There is no CLIP; connect the one of Load OSEDiff or of a whole checkpoint.")
        if prompt_override.strip():
            prompts = [prompt_override.strip()]
        else:
            found: list[list[str]] = [[]]
            if image is not None and tagger is not None:
                exclude = [word.strip().lower() for word in exclude_tags.split(",") if word.strip()]
                found = tagger.tag(image, exclude, threshold_offset) or found
            prompts = [fitting_prompt(clip, tags, extra_prompt.strip()) for tags in found]
        return io.NodeOutput(encode_prompts(clip, prompts), "\n".join(prompts))


def fitting_prompt(clip: comfy.sd.CLIP, tags: list[str], extra: str) -> str:
    """Tags, then the extra words; tags are left out from the end until CLIP's 77 tokens hold everything."""
    tags, words = [escape(tag) for tag in tags], [extra] if extra else []
    while tags and _chunks(clip.tokenize(", ".join(tags + words))) > 1:
        tags.pop()
    return ", ".join(tags + words)


def escape(tag: str) -> str:
    """A tag as literal text: brackets would be weights to ComfyUI, and a colon could name an embedding."""
    return tag.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)").replace(":", " ")


def encode_prompts(clip: comfy.sd.CLIP, prompts: list[str]) -> list[Any]:
    """CONDITIONING of one batch entry for each prompt, of 77 tokens each; more are cut off, with a warning."""
    encoded = {}
    for prompt in dict.fromkeys(prompts):
        tokens = clip.tokenize(prompt)
        if _chunks(tokens) > 1:
            logger.warning("The prompt is longer than CLIP's 77 tokens; its end is left out: %.60s…", prompt)
            tokens = {name: chunks[:1] for name, chunks in tokens.items()}
        encoded[prompt] = clip.encode_from_tokens_scheduled(tokens)
    if len(encoded) == 1:
        return encoded[prompt]
    first_of_each = [encoded[prompt][0] for prompt in prompts]
    extras = dict(first_of_each[0][1])
    if torch.is_tensor(extras.get("pooled_output")):
        extras["pooled_output"] = torch.cat([extra["pooled_output"] for _, extra in first_of_each])
    return [[torch.cat([embeds for embeds, _ in first_of_each]), extras]]


def _chunks(tokens: dict[str, list[Any]]) -> int:
    return max(len(chunks) for chunks in tokens.values())
