"""Write the photographs as three folders of pictures: what `training.dape.train` trains and validates on, and the rest.

python -m training.recipes.tiny_dape.split --photos photos --out runs/tiny_dape
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from .photographs import find_photographs

SHORT_SIDE = 640  # px: crops of a training resolution then show something whole


def shrunk(image: Image.Image) -> Image.Image:
    """At most SHORT_SIDE px on its shorter side."""
    scale = min(1.0, SHORT_SIDE / min(image.size))
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="the folder of fetch_photos")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    for photo in find_photographs(args.photos):
        folder = args.out / photo.split
        folder.mkdir(parents=True, exist_ok=True)
        shrunk(photo.load()).save(folder / f"{photo.key.replace('/', '_').rstrip('.')}.png")


if __name__ == "__main__":
    main()
