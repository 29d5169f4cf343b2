"""Restore Video: a film frame by frame, in memory that does not grow with its length."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import Input, InputImpl, io
from torch import Tensor

from .checks import check_model
from .decode import TiledDecode
from .denoise import OneStepDenoise
from .encode import EncodeLQ, output_size
from .inputs import color_inputs, scale_input, tile_input
from .native.clips import ClipReader, ClipWriter, Frame
from .native.lora import attachment_of
from .native.tagger import NativeTagger
from .notices import as_output, warnings_gathered
from .progress import Clock
from .prompt import DAPEPrompt, TaggerSocket

_GLANCE = 32  # pixels: both sides of what two frames are compared by


class RestoreVideo(io.ComfyNode):
    """Encode, step and decode for one frame after the other; tags once a scene."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """VIDEO, MODEL, CLIP, VAE, tagger -> VIDEO, STRING."""
        return io.Schema(
            node_id="OSEDiff_Video",
            display_name="Restore Video (OSEDiff)",
            category="OSEDiff",
            description="Restores and enlarges a video frame by frame: memory does not grow with its length, the "
            "tagger looks once at each scene, the sound is kept. Frames are restored one by one, so that fine texture "
            "may flicker.",
            search_aliases=[
                "video upscale",
                "upscale video",
                "restore film",
                "video super resolution",
                "frames",
            ],
            inputs=[
                io.Video.Input("video", tooltip="Of Load Video, trimmed or not."),
                io.Model.Input("model", tooltip="The MODEL of Load OSEDiff or Apply OSEDiff."),
                io.Clip.Input("clip", tooltip="The CLIP of Load OSEDiff or of the base's loader."),
                io.Vae.Input("vae", tooltip="The VAE of Load OSEDiff or Apply OSEDiff."),
                scale_input(),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip="Output width in pixels instead of scale; with 0 it follows from the height. Sides become "
                    "even, as videos need them.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip="Output height in pixels instead of scale; with 0 it follows from the width.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="What the video shows, in addition to what the tagger finds in each scene; with weights "
                    "for an empty prompt leave it empty, and there are no tags.",
                ),
                io.Float.Input(
                    "scene_change",
                    default=0.12,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much a frame must differ from the one before to begin a scene, whose first frame the "
                    "tagger looks at: the mean difference of their levels. 0: every frame, 1: only the first.",
                ),
                *color_inputs("color_fix", "color_weight"),
                tile_input(advanced=True),
                TaggerSocket.Input(
                    "tagger", optional=True, tooltip="Of Load DAPE; not connected: your words alone."
                ),
            ],
            outputs=[
                io.Video.Output(tooltip="For Save Video, with the sound and the times of the input."),
                io.String.Output(
                    "prompts",
                    display_name="prompts",
                    tooltip="The prompt of each scene, a line each, with the second it begins at.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        video: Input.Video,
        model: ModelPatcher,
        clip: comfy.sd.CLIP,
        vae: comfy.sd.VAE,
        scale: float,
        width: int,
        height: int,
        prompt: str,
        scene_change: float,
        color_fix: str,
        color_weight: float,
        tile: int,
        tagger: NativeTagger | None = None,
    ) -> io.NodeOutput:
        """Raises what the nodes of the chain raise, and ImageError for a VIDEO without pictures."""
        check_model(model)
        method = attachment_of(model).method
        if not method.reads_words:
            prompt, tagger = prompt or method.default_prompt, None
        with warnings_gathered() as warnings, ClipReader(video) as reader:
            size = even(output_size(*reader.size, scale, width, height))
            path = Path(folder_paths.get_temp_directory()) / f"osediff_{uuid.uuid4().hex}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            scenes: list[str] = []
            seen: Tensor | None = None
            positive: list[Any] = []
            with ClipWriter(path, reader, size) as writer, one_bar("Restore Video", reader.count) as advance:
                for part in reader.read():
                    if not isinstance(part, Frame):
                        writer.write_sound(part)
                        continue
                    before, seen = seen, glance(part.image)
                    if before is None or float((seen - before).abs().mean()) >= scene_change:
                        described = DAPEPrompt.execute(clip, prompt, "", 0.0, "", part.image, tagger)
                        positive, words = described.args
                        scenes.append(f"{part.time:.2f} s: {words}")
                    latent, reference = EncodeLQ.execute(
                        part.image, vae, scale, *size, "bicubic", 0, "mode", 0
                    ).args
                    (latent,) = OneStepDenoise.execute(
                        model, positive, latent, tile, tile // 3, 1.0, 1.0
                    ).args
                    (image,) = TiledDecode.execute(latent, vae, 0, color_fix, color_weight, reference).args
                    writer.write(image, part.pts)
                    advance()
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), "\n".join(scenes), ui=as_output(warnings))


def even(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) as H.264 takes them."""
    width, height = (max(2, side // 2 * 2) for side in size)
    return width, height


def glance(image: Tensor) -> Tensor:
    """IMAGE (1, H, W, 3) -> (1, 3, n, n): what two frames are compared by."""
    return F.interpolate(image.movedim(-1, 1), (_GLANCE, _GLANCE), mode="area")


@contextmanager
def one_bar(work: str, count: int) -> Iterator[Callable[[], None]]:
    """Inside this context, one bar and the time left for `count` frames, about, in place of the bars of what is done to
    each; call it for each that is done. Previews are shown as they come."""
    hook, done = comfy.utils.PROGRESS_BAR_HOOK, 0

    def whole(_value: float, _total: float, preview: object = None, **where: object) -> None:
        if hook is not None:
            hook(min(done, count), count, preview, **where)

    def advance() -> None:
        nonlocal done
        done += 1
        whole(done, count)
        clock.update(min(done, count))

    comfy.utils.set_progress_bar_global_hook(whole)
    try:
        with Clock(work, count) as clock:
            yield advance
    finally:
        comfy.utils.set_progress_bar_global_hook(hook)
