"""Restores the example photos with the embedded model and puts bicubic and ours side by side.

    python examples/make_demo.py [--input examples/photos] [--output demo_output]

For every PNG of the input folder: NAME.png, the photo restored at four times its size, and NAME_compare.png,
the photo enlarged by bicubic interpolation on the left, restored on the right.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from osediff_core import (
    OneStepGenerator,
    OSEDiffError,
    Picture,
    RestoreOptions,
    read_image,
    restore_picture,
    write_image,
)
from osediff_core.geometry import resize_clipped

HERE = Path(__file__).resolve().parent
CAPTION = 24  # height in pixels


def main() -> int:
    parser = argparse.ArgumentParser(description="Restore the example photos.")
    parser.add_argument("--input", type=Path, default=HERE / "photos")
    parser.add_argument("--output", type=Path, default=HERE.parent / "demo_output")
    parser.add_argument("--scale", type=float, default=4.0)
    args = parser.parse_args()

    photos = sorted(args.input.glob("*.png"))
    if not photos:
        print(f"There are no PNG files in {args.input}.", file=sys.stderr)
        return 1
    options = RestoreOptions(scale=args.scale)
    try:
        generator = OneStepGenerator.load("tiny")
        for photo in photos:
            picture = read_image(photo)
            restored = restore_picture(generator, picture, options)
            write_image(args.output / photo.name, restored)
            compared = side_by_side(bicubic(picture, restored.size), restored)
            write_image(args.output / f"{photo.stem}_compare.png", compared)
            print(photo.name, "{}x{} -> {}x{}".format(*picture.size, *restored.size))
    except OSEDiffError as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    print(f"\n{len(photos)} restored, each also side by side (bicubic | ours), in {args.output.resolve()}")
    return 0


def bicubic(picture: Picture, size: tuple[int, int]) -> Picture:
    """The same picture, only enlarged."""
    rgb = torch.from_numpy(picture.rgb.transpose(2, 0, 1).copy())[None]
    return replace(picture, rgb=resize_clipped(rgb, size)[0].permute(1, 2, 0).numpy(), alpha=None)


def side_by_side(left: Picture, right: Picture) -> Picture:
    """Two pictures of one size, with captions above."""
    height, width = left.rgb.shape[:2]
    sheet = np.ones((height + CAPTION, 2 * width, 3), dtype=np.float32)
    sheet[:CAPTION] = np.asarray(caption(2 * width), dtype=np.float32) / 255
    sheet[CAPTION:, :width] = left.rgb
    sheet[CAPTION:, width:] = right.rgb
    return Picture(rgb=sheet, icc=right.icc)


def caption(width: int) -> Image.Image:
    """A white strip that names the two halves."""
    strip = Image.new("RGB", (width, CAPTION), "white")
    draw = ImageDraw.Draw(strip)
    draw.text((8, 6), "bicubic", fill="black")
    draw.text((width // 2 + 8, 6), "ours", fill="black")
    return strip


if __name__ == "__main__":
    sys.exit(main())
