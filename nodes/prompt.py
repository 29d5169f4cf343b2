"""DAPE Prompt: what the picture shows, as conditioning. Load DAPE: the tagger that reads it from the picture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..osediff_core.dape import fitting_prompt, prompt_of
from ..osediff_core.dape.choice import TINY_TAGGER
from ..osediff_core.errors import CheckpointError, OptionError
from ..osediff_core.runtime.device import DTYPES
from .conversions import stamp
from .folders import FOLDER, NONE, missing_file, path_or_none
from .inputs import dtype_input
from .kept import Kept
from .native.tagger import NativeTagger, load_tagger

logger = logging.getLogger(__name__)

TaggerSocket = io.Custom("OSEDIFF_TAGGER")
EMBEDDED_TAGGER = "embedded"
RAM_ALONE = "RAM alone"
_kept = Kept()
_RAM_SOURCE = "https://huggingface.co/spaces/xinyu1205/recognize-anything"


class LoadDAPE(io.ComfyNode):
    """The tagger's weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """-> OSEDIFF_TAGGER."""
        files = folder_paths.get_filename_list(FOLDER)
        return io.Schema(
            node_id="OSEDiff_LoadDAPE",
            display_name="Load DAPE (OSEDiff)",
            category="OSEDiff",
            description="Loads the tagger that reads a prompt from a picture: RAM, with DAPE for degraded pictures. "
            "The embedded one is small and knows few tags.",
            search_aliases=["ram", "recognize anything", "tagger", "prompt extractor"],
            inputs=[
                io.Combo.Input(
                    "tagger",
                    options=[EMBEDDED_TAGGER, *files],
                    default=EMBEDDED_TAGGER,
                    tooltip="In models/osediff: ram_swin_large_14m.pth, or RAM and DAPE in one small file, written by "
                    "the command osediff convert. 'embedded' comes with the pack; it is small and knows few tags.",
                ),
                io.Combo.Input(
                    "dape",
                    options=[NONE, RAM_ALONE, *files],
                    default=NONE,
                    advanced=True,
                    tooltip="DAPE.pth beside RAM's own file. 'none': what the tagger's file holds, with DAPE if it is "
                    "in there. 'RAM alone': without DAPE, for good pictures.",
                ),
                dtype_input(),
            ],
            outputs=[TaggerSocket.Output("tagger", display_name="tagger")],
        )

    @classmethod
    def fingerprint_inputs(cls, tagger: str, dape: str, **_: object) -> str:
        """Read again when a file was replaced."""
        kept = (EMBEDDED_TAGGER, RAM_ALONE)
        return stamp([path_or_none(FOLDER, name) for name in (tagger, dape) if name not in kept])

    @classmethod
    def execute(cls, tagger: str, dape: str, dtype: str) -> io.NodeOutput:
        """Raises CheckpointError for files that are missing or something else, OptionError for DAPE without RAM."""
        if tagger == EMBEDDED_TAGGER and dape not in (NONE, RAM_ALONE):
            raise OptionError(
                "The embedded tagger takes no DAPE; choose RAM's weights as the tagger, or 'none' as dape."
            )
        lora = dape == NONE if dape in (NONE, RAM_ALONE) else _tagger_file(dape)
        file = _tagger_file(tagger)
        stamped = (tagger, dape, dtype, cls.fingerprint_inputs(tagger, dape))
        return io.NodeOutput(_kept.get_or_load(stamped, lambda: load_tagger(file, lora, DTYPES.get(dtype))))


def _tagger_file(name: str) -> Path:
    if name == EMBEDDED_TAGGER:
        return TINY_TAGGER
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        wanted = f"the tagger's weights (ram_swin_large_14m.pth, from {_RAM_SOURCE})"
        raise CheckpointError(missing_file(FOLDER, name, wanted, "another"))
    return Path(path)


class DAPEPrompt(io.ComfyNode):
    """Tags and text -> conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """CLIP, IMAGE, tagger -> CONDITIONING, STRING."""
        return io.Schema(
            node_id="OSEDiff_DAPEPrompt",
            display_name="DAPE Prompt (OSEDiff)",
            category="OSEDiff",
            description="The prompt of the one step: what the tagger sees in the picture, and your own words. Without "
            "a tagger the words alone; they may be empty.",
            search_aliases=["clip text encode", "prompt", "tags", "caption"],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of Load OSEDiff or of the base's loader."),
                io.Image.Input(
                    "image",
                    optional=True,
                    lazy=True,
                    tooltip="The picture to be read. The official code reads it enlarged (the second output of Encode "
                    "LQ); before that it looks nearly the same to the tagger.",
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
                io.Boolean.Input(
                    "official",
                    default=False,
                    optional=True,  # older graphs do not have it
                    advanced=True,
                    tooltip="The prompt exactly as the official test code builds it: it ends in a comma, without your "
                    "words in two; what is too long is cut at its end, not made to fit.",
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
        tagger: NativeTagger | None = None,
        official: bool = False,
    ) -> io.NodeOutput:
        """Raises OptionError for a CLIP that is missing."""
        if clip is None:
            raise OptionError("There is no CLIP; connect the one of Load OSEDiff or of a whole checkpoint.")
        if prompt_override.strip():
            prompts = [prompt_override.strip()]
        else:
            found: list[list[str]] = [[]]
            if image is not None and tagger is not None:
                exclude = [word.strip() for word in exclude_tags.split(",") if word.strip()]
                found = tagger.tag(image, exclude, threshold_offset) or found
            words = extra_prompt.strip()
            prompts = [
                prompt_of(tags, words, official=True)
                if official
                else fitting_prompt(tags, words, lambda text: _chunks(clip.tokenize(text)) == 1)
                for tags in ([escape(tag) for tag in found_in_one] for found_in_one in found)
            ]
        return io.NodeOutput(encode_prompts(clip, prompts), "\n".join(prompts))


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
    if len({embeds.shape for embeds, _ in first_of_each}) > 1:
        raise OptionError(
            "The CLIP at clip gives prompts of different lengths, as that of another family does; connect the one of "
            "Load OSEDiff."
        )
    extras = dict(first_of_each[0][1])
    if torch.is_tensor(extras.get("pooled_output")):
        extras["pooled_output"] = torch.cat([extra["pooled_output"] for _, extra in first_of_each])
    return [[torch.cat([embeds for embeds, _ in first_of_each]), extras]]


def _chunks(tokens: dict[str, list[Any]]) -> int:
    return max(len(chunks) for chunks in tokens.values())
