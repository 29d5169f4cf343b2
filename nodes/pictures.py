"""Load Pictures: all pictures of a folder, one after the other, of every format that the command reads."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..osediff_core.errors import ImageError
from ..osediff_core.images import find_pictures, left_out_words, read_image
from .conversions import file_state, join_image
from .notices import as_output, warn, warnings_gathered

EXAMPLES = "examples (with the pack)"
_PHOTOS = Path(__file__).resolve().parents[1] / "examples" / "photos"


class LoadPictures(io.ComfyNode):
    """A folder as a list."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """-> list of IMAGE, list of STRING."""
        return io.Schema(
            node_id="OSEDiff_LoadPictures",
            display_name="Load Pictures (OSEDiff)",
            category="OSEDiff",
            description="Reads all pictures of a folder in ComfyUI's input folder, each with its own size and alpha. "
            "What follows runs once for each of them.",
            search_aliases=["load images from folder", "batch", "directory", "image list", "tiff", "heic"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=[EXAMPLES, *folder_paths.get_input_subfolders()],
                    default=EXAMPLES,
                    tooltip="A folder below ComfyUI's input; press R after you have put one there. The examples are "
                    "small photos that come with the pack.",
                )
            ],
            outputs=[
                io.Image.Output(is_output_list=True, tooltip="The pictures by name, one at a time."),
                io.String.Output(
                    "name",
                    display_name="name",
                    is_output_list=True,
                    tooltip="Their names, without suffix, as for filename_prefix of Save Image.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str) -> str:
        """Read again when a picture was added, taken away or replaced."""
        try:
            return repr([(path.name, file_state(path)) for path in find_pictures(_path_of(folder))])
        except OSError as error:
            return repr(error)

    @classmethod
    def execute(cls, folder: str) -> io.NodeOutput:
        """Raises ImageError for a folder without pictures or a picture that cannot be read."""
        path, left_out = _path_of(folder), []
        with warnings_gathered() as warnings:
            try:
                found = list(find_pictures(path, left_out=left_out.append))
            except OSError as error:
                raise ImageError(f"The folder {path} cannot be read; choose another, or press R.") from error
            if left_out:
                warn(f"In {path}: {left_out_words(left_out)}.")
        if not found:
            raise ImageError(
                f"The folder {path} holds no pictures; put some there, or choose another folder."
            )
        images = []
        for picture in found:
            comfy.model_management.throw_exception_if_processing_interrupted()
            images.append(_read(picture))
        names = [picture.stem for picture in found]
        return io.NodeOutput(images, names, ui=as_output(warnings))


def _path_of(folder: str) -> Path:
    if folder == EXAMPLES:
        return _PHOTOS
    inputs = Path(folder_paths.get_input_directory()).resolve()
    path = (inputs / folder).resolve()
    if not path.is_relative_to(inputs):
        raise ImageError(f"The folder {folder} lies outside of ComfyUI's input folder; choose one inside.")
    return path


def _read(path: Path) -> Tensor:
    """IMAGE (1, H, W, 3 or 4)."""
    picture = read_image(path)
    rgb = torch.from_numpy(picture.rgb).movedim(-1, 0)[None]
    alpha = None if picture.alpha is None else torch.from_numpy(picture.alpha)[None, None]
    return join_image([rgb], alpha)
