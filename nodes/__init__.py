"""The nodes, listed as a picture flows through them: load, prompt, encode, denoise, decode, colour."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import examples, folders
from .color import ColourFix
from .decode import TiledDecode
from .degrade import Degrade
from .denoise import OneStepDenoise, OSEDiffSampler
from .direct import LoadUpscaler, OneStepUpscale
from .download import Download
from .encode import EncodeLQ
from .evaluate import Evaluate
from .fidelity import Fidelity
from .fit import FitToPicture
from .light_decoder import LightDecoder
from .load import ApplyOSEDiff, LoadOSEDiff
from .pictures import LoadPictures
from .prompt import DAPEPrompt, LoadDAPE
from .save import SaveOSEDiff
from .sliders import PixelSemantic
from .upscale import Upscale
from .video import RestoreVideo

folders.register()

NODES: list[type[io.ComfyNode]] = [
    LoadOSEDiff,
    ApplyOSEDiff,
    Fidelity,
    PixelSemantic,
    FitToPicture,
    LoadDAPE,
    DAPEPrompt,
    EncodeLQ,
    OneStepDenoise,
    OSEDiffSampler,
    LightDecoder,
    TiledDecode,
    ColourFix,
    Upscale,
    LoadUpscaler,
    OneStepUpscale,
    LoadPictures,
    RestoreVideo,
    Degrade,
    Evaluate,
    SaveOSEDiff,
    Download,
]


class OSEDiffExtension(ComfyExtension):
    """The nodes as an extension of ComfyUI."""

    async def on_load(self) -> None:
        """Called by ComfyUI's server once at start."""
        from server import PromptServer  # late: ComfyUI's start imports it at its own time

        examples.serve(PromptServer.instance.routes)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES
