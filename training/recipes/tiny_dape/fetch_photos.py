"""Fetch the photographs of `training.recipes.tiny`, and the openly licensed ones of one more Debian package.

python -m training.recipes.tiny_dape.fetch_photos --out photos
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..tiny.fetch_photos import DEBIAN, GIT, DebianPackage, fetch_debian, fetch_git

# of its photographs photo_tags.txt names only those that are not under a share-alike licence
LOMIRI = DebianPackage("lomiri-wallpapers-16.04", "bookworm", "CC0-1.0, CC-BY-4.0")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    for package in (*DEBIAN, LOMIRI):
        fetch_debian(package, args.out)
    for source in GIT:
        fetch_git(source, args.out)


if __name__ == "__main__":
    main()
