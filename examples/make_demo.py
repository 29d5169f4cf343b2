"""Restores the example photos with the embedded model, by the library and through a real ComfyUI.

    python examples/make_demo.py [--input examples/photos] [--output demo_output] [--no-comfyui]

For every PNG of the input folder: NAME.png, the photo restored at four times its size; NAME_compare.png, the photo
enlarged by bicubic interpolation on the left, restored on the right; NAME_comfyui.png, what a ComfyUI server made of
the photo with example_workflows/api/restore_photo.json. Without a ComfyUI (headless/fetch.py) that part is left out.
At the end overview.png: the middle of every photo, before and after.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from headless import ComfyError, FetchError, ServerError
from headless.demo import installed_comfyui, restore_photos
from PIL import Image, ImageDraw, ImageFont

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
PANE = 480  # pixels: a side of each square in the overview


def main() -> int:
    parser = argparse.ArgumentParser(description="Restore the example photos.")
    parser.add_argument("--input", type=Path, default=HERE / "photos")
    parser.add_argument("--output", type=Path, default=HERE.parent / "demo_output")
    parser.add_argument("--scale", type=float, default=4.0)
    parser.add_argument("--no-comfyui", action="store_true", help="leave out the part with a ComfyUI server")
    args = parser.parse_args()

    photos = sorted(args.input.glob("*.png"))
    if not photos:
        print(f"There are no PNG files in {args.input}.", file=sys.stderr)
        return 1
    try:
        by_library(photos, args.output, args.scale)
        if not args.no_comfyui:
            through_comfyui(photos, args.output, args.scale)
    except FetchError as error:
        print(f"The ComfyUI part was left out: {error}", file=sys.stderr)
    except (OSEDiffError, ServerError, ComfyError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    print(f"\nThe results are in {args.output.resolve()}")
    print(f"Before and after, in one picture: {overview(photos, args.output).resolve()}")
    if not args.no_comfyui:
        print("The same in ComfyUI's page: make comfyui")
    return 0


def overview(photos: list[Path], output: Path) -> Path:
    """Writes overview.png, two photos in a row, each before | after; returns its path."""
    rows = -(-len(photos) // 2)
    sheet = Image.new("RGB", (4 * PANE, rows * (PANE + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for place, photo in enumerate(photos):
        left, top = place % 2 * 2 * PANE, place // 2 * (PANE + CAPTION)
        with Image.open(photo) as before, Image.open(output / photo.name) as after:
            words = (f"{before.width} x {before.height}", f"restored: {after.width} x {after.height}")
            for side, picture in enumerate((before, after)):
                x = left + side * PANE
                sheet.paste(middle(picture.convert("RGB")), (x, top + CAPTION))
                draw.text((x + 6, top + 3), words[side], fill="black", font=font)
    path = output / "overview.png"
    sheet.save(path)
    return path


def middle(picture: Image.Image) -> Image.Image:
    """The largest square in the middle of a picture."""
    side = min(picture.size)
    left, top = ((length - side) / 2 for length in picture.size)
    box = (left, top, left + side, top + side)
    return picture.resize((PANE, PANE), Image.Resampling.BICUBIC, box=box)


def by_library(photos: list[Path], output: Path, scale: float) -> None:
    """Writes NAME.png and NAME_compare.png."""
    generator = OneStepGenerator.load("tiny")
    for photo in photos:
        picture = read_image(photo)
        restored = restore_picture(generator, picture, RestoreOptions(scale=scale))
        write_image(output / photo.name, restored)
        compared = side_by_side(bicubic(picture, restored.size), restored)
        write_image(output / f"{photo.stem}_compare.png", compared)
        print(photo.name, "{}x{} -> {}x{}".format(*picture.size, *restored.size))


def through_comfyui(photos: list[Path], output: Path, scale: float) -> None:
    """Writes NAME_comfyui.png, beside the NAME.png that are there."""
    tree = installed_comfyui()
    print("\nThe same through a ComfyUI server; it starts in half a minute or so ...")
    for photo, png in zip(photos, restore_photos(tree, photos, scale), strict=True):
        result = output / f"{photo.stem}_comfyui.png"
        result.write_bytes(png)
        decibels = psnr(read_image(result), read_image(output / photo.name))
        print(f"{result.name} is {decibels:.1f} dB PSNR from {photo.name}")


def psnr(left: Picture, right: Picture) -> float:
    """How close two pictures of one size are; infinite if they are equal."""
    error = float(np.mean((left.rgb.astype(np.float64) - right.rgb) ** 2))
    return 10 * math.log10(1 / error) if error else math.inf


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
