"""Evaluate: scores of pictures, alone or against what they should be."""

from __future__ import annotations

import comfy.model_management
import numpy as np
from comfy_api.latest import io, ui
from torch import Tensor

from ..osediff_core.errors import ImageError, OptionError
from ..osediff_core.images import Picture
from .color import reference_frames
from .conversions import split_image
from .progress import each_frame

_NETWORKS = 2**30  # bytes that the largest metric takes, with its features of a photo

_OF_FOLDERS = "FID compares whole folders; run osediff evaluate for it, and name other metrics here."


class Evaluate(io.ComfyNode):
    """The metrics of `osediff evaluate` on the pictures of a graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """IMAGE, reference IMAGE -> STRING, STRING."""
        return io.Schema(
            node_id="OSEDiff_Evaluate",
            display_name="Evaluate (OSEDiff)",
            category="OSEDiff",
            description="Measures how good pictures are: PSNR and SSIM against the original, and on request the other "
            "metrics of OSEDiff's paper, with its settings.",
            search_aliases=[
                "psnr",
                "ssim",
                "lpips",
                "niqe",
                "metrics",
                "image quality",
                "benchmark",
                "compare",
            ],
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="The pictures to measure; alpha is left out."),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="What they should be, of the same size, one for all or one for each. Without it only niqe, "
                    "maniqa, musiq and clipiqa can be computed.",
                ),
                io.String.Input(
                    "metrics",
                    default="psnr, ssim",
                    tooltip="Names with commas between: psnr, ssim, lpips, dists, niqe, maniqa, musiq, clipiqa, d2; "
                    "or osediff for those of the paper. All but psnr and ssim need further Python packages.",
                ),
                io.Boolean.Input(
                    "allow_download",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Off: nothing is ever fetched, and a metric without weights on this machine is skipped. "
                    "On: the package pyiqa fetches them.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "text", display_name="text", tooltip="The means, and what was skipped and why."
                ),
                io.String.Output(
                    "table", display_name="table", tooltip="The scores of each picture, as CSV."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, metrics: str, reference: Tensor | None = None, allow_download: bool = False
    ) -> io.NodeOutput:
        """Raises OptionError for an unknown metric, ImageError for pictures that do not fit, MetricUnavailable."""
        from ..osediff_core.evaluate.evaluation import Case, Evaluation, summarise
        from ..osediff_core.evaluate.measure import load_measures, scores_of
        from ..osediff_core.evaluate.metrics import parse_metrics
        from ..osediff_core.evaluate.tables import as_csv, as_text

        wanted = parse_metrics(metrics)
        of_each = [metric for metric in wanted if not metric.of_set]
        if not of_each:
            raise OptionError(_OF_FOLDERS)
        rgb, _ = split_image(image)
        frames, _, height, width = rgb.shape
        truth = None if reference is None else reference_frames(reference, frames)
        if truth is not None and truth.shape != rgb.shape:
            raise ImageError(
                f"The pictures have {width}x{height} pixels, but the reference has {truth.shape[3]}x{truth.shape[2]}; "
                "make them the same size."
            )
        device = comfy.model_management.get_torch_device()
        comfy.model_management.free_memory(_NETWORKS, device)
        measures, skipped = load_measures(of_each, device, allow_download, truth is not None, frames)
        if len(of_each) < len(wanted):
            skipped["fid"] = _OF_FOLDERS
        cases = []
        for frame in each_frame("Evaluate", frames):
            case = Case(f"{frame + 1}", (width, height))
            case.result = scores_of(
                measures, _levels(rgb[frame]), None if truth is None else _levels(truth[frame]), case.notes
            )
            cases.append(case)
        found = Evaluation(list(measures), skipped, cases, {}, summarise(list(measures), cases))
        notes = [f"{case.name}: {note}" for case in cases for note in case.notes]
        text = "\n".join([as_text(found), *skipped.values(), *notes])
        return io.NodeOutput(text, as_csv(found), ui=ui.PreviewText(text))


def _levels(rgb: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> uint8 (H, W, 3), rounded."""
    return Picture(rgb.movedim(0, -1).cpu().numpy()).rgb8()
