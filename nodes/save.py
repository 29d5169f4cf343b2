"""Save OSEDiff: weights into a file of the other format, or of another precision."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..osediff_core.runtime.device import DTYPES
from .conversions import stamp
from .folders import FOLDER, path_or_none, read_chosen
from .inputs import weights_input

_KEEP = "as stored"


class SaveOSEDiff(io.ComfyNode):
    """Official .pkl <-> .safetensors, without loss."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A file of weights -> another file of weights."""
        return io.Schema(
            node_id="OSEDiff_Save",
            display_name="Save OSEDiff",
            category="OSEDiff",
            description="Writes OSEDiff weights as .safetensors, or as the official .pkl, into ComfyUI's output "
            "folder. Files in output/osediff can be chosen in Load OSEDiff at once.",
            search_aliases=["convert checkpoint", "pkl to safetensors", "export weights"],
            is_output_node=True,
            inputs=[
                weights_input(),
                io.String.Input(
                    "filename_prefix",
                    default="osediff/weights",
                    tooltip="Name of the file in the output folder; a number is put behind it.",
                ),
                io.Combo.Input(
                    "format",
                    options=["safetensors", "pkl"],
                    default="safetensors",
                    tooltip="safetensors: with metadata, for this pack and the command. pkl: exactly the official "
                    "format, for other programs.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=[_KEEP, *DTYPES],
                    default=_KEEP,
                    tooltip="Precision of the tensors in the file; fp16 and bf16 halve an fp32 file.",
                ),
            ],
            outputs=[io.String.Output("path", display_name="path", tooltip="The file written.")],
        )

    @classmethod
    def fingerprint_inputs(cls, weights: str, **_: object) -> str:
        """Written again when the file was replaced."""
        return stamp([path_or_none(FOLDER, weights)])

    @classmethod
    def execute(cls, weights: str, filename_prefix: str, format: str, dtype: str) -> io.NodeOutput:
        """Raises CheckpointError if the weights cannot be read or the file cannot be written."""
        from ..osediff_core.weights.checkpoint import write_weights

        osediff = read_chosen(weights)
        folder, name, _, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        os.makedirs(folder, exist_ok=True)
        path = _free_path(Path(folder), name, format)
        write_weights(path, osediff, None if dtype == _KEEP else dtype)
        return io.NodeOutput(str(path), ui=ui.PreviewText(str(path)))


def _free_path(folder: Path, name: str, suffix: str) -> Path:
    """The first numbered name that no file has."""
    number = 1
    while (path := folder / f"{name}_{number:05}.{suffix}").exists():
        number += 1
    return path
