"""The node that fetches published weights, and only when its switch is on."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..osediff_core.errors import DownloadError
from ..osediff_core.weights.download import download
from ..osediff_core.weights.published import KNOWN_FILES, find
from .conversions import file_state

# Path -> file_state of files whose hash was found right: computing that of several gigabytes takes its time.
_checked: dict[str, tuple[int, int]] = {}


class Download(io.ComfyNode):
    """Published weights in the models folder that they belong in."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node in ComfyUI."""
        names = [file.name for file in KNOWN_FILES]
        contents = "; ".join(
            f"{file.name}: {file.purpose}, {file.size_text}, {file.licence}" for file in KNOWN_FILES
        )
        return io.Schema(
            node_id="OSEDiff_Download",
            display_name="Download OSEDiff weights",
            category="OSEDiff",
            description="Puts published weights into ComfyUI's models folder. Nothing is fetched while allow_download "
            "is off. A stopped download goes on where it was. Afterwards press R, so that the loaders list the file.",
            search_aliases=["osediff download", "get weights", "DAPE", "RAM", "SD 2.1 base"],
            inputs=[
                io.Combo.Input("which", options=names, default=names[0], tooltip=contents),
                io.Boolean.Input(
                    "allow_download",
                    default=False,
                    tooltip="Off: nothing is ever fetched, the node only looks whether the file is there. On: it is "
                    "fetched if it is missing, and its published hash is checked.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Where the file is.")],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, which: str, allow_download: bool) -> tuple[int, int] | None:
        """Changes when the file appears, disappears or is replaced."""
        file = find(which)
        path = folder_paths.get_full_path(file.folder, file.name)
        return None if path is None else file_state(path)

    @classmethod
    def execute(cls, which: str, allow_download: bool) -> io.NodeOutput:
        """Raises DownloadError: the file is missing and must not be fetched, or could not be."""
        file = find(which)
        path = folder_paths.get_full_path(file.folder, file.name)
        if path is None and not allow_download:
            raise DownloadError(
                f"{file.name} is not in models/{file.folder}; switch on allow_download to fetch it (about "
                f"{file.size_text} from {file.place}), or put it there yourself."
            )
        if path is None or (allow_download and _checked.get(path) != file_state(path)):
            folder = folder_paths.get_folder_paths(file.folder)[0] if path is None else Path(path).parent
            path = str(download(file, folder, progress=_Progress()))
            _checked[path] = file_state(path)
        return io.NodeOutput(path)


class _Progress:
    """Shows the bytes in ComfyUI, and lets its Stop button end the download."""

    def __init__(self) -> None:
        self._bar = comfy.utils.ProgressBar(1)

    def __call__(self, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(done, total)
