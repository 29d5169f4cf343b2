"""The embedded tagger on photographs that it was not trained on: what its card says, in a small way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core.dape import Tagger, read_tagger, tag_names
from osediff_core.dape.choice import open_tagger
from osediff_core.dape.embedded import TINY_TAGGER
from osediff_core.degrade import degrade
from osediff_core.torch_file import safetensors_header

PHOTOS = Path(__file__).parents[2] / "examples/photos"  # of the Kodak suite, all held out
NAMES = ("barn", "lighthouse", "parrots", "plane")


@pytest.fixture(scope="module")
def images():
    found = {}
    for name in NAMES:
        with Image.open(PHOTOS / f"{name}.png") as image:
            pixels = np.asarray(image.convert("RGB"))
        found[name] = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1
    return found


def test_the_file_is_small_half_precision_and_says_what_it_is():
    shapes, dtypes, metadata = safetensors_header(TINY_TAGGER)
    assert TINY_TAGGER.stat().st_size < 8e6
    assert (
        metadata["dape"] == "lora" and metadata["licence"] == "Apache-2.0" and "tiny DAPE" in metadata["what"]
    )
    assert {dtypes[name] for name in shapes if "lora_" not in name} == {"F16"}
    config = read_tagger(TINY_TAGGER).config
    assert len(config.tags) == len(config.thresholds) and config.tag_count >= 50


def test_lora_changes_what_is_seen_and_ram_alone_leaves_it_out(images):
    with_lora, without = (
        open_tagger(dape, ram, dtype="fp32", device="cpu").scores(list(images.values()))
        for dape, ram in (("tiny", None), (None, "tiny"))
    )
    assert (with_lora - without).abs().max() > 0.02


def test_tags_are_of_rams_list_and_mostly_right(images):
    right = {
        "barn": {"house", "building", "barn", "water", "pond", "tree", "grass", "sky", "plant", "field", "landscape",
                 "window", "roof", "green", "dark"},
        "lighthouse": {"sky", "cloud", "lighthouse", "tower", "house", "building", "stone", "sea", "water", "shore",
                       "beach", "landscape", "blue", "grass", "coast"},
        "parrots": {"bird", "parrot", "animal", "plant", "green", "leaf"},
        "plane": {"plane", "vehicle", "sky", "grass", "field", "landscape", "bright", "yellow", "machine"},
    }  # fmt: skip
    tagger = Tagger.load(TINY_TAGGER, dtype="fp32", device="cpu")
    given = dict(zip(images, tagger.tag(list(images.values())), strict=True))
    pairs = [(name, tag.name) for name, tags in given.items() for tag in tags]
    assert {tag for _, tag in pairs} <= set(tag_names())
    assert len(pairs) >= 6
    assert sum(tag in right[name] for name, tag in pairs) >= 0.6 * len(pairs), pairs


def test_with_lora_degraded_pictures_look_more_like_the_good_ones(images):
    with_lora, without = (
        Tagger.load(TINY_TAGGER, dape, dtype="fp32", device="cpu") for dape in (True, False)
    )
    good = without.scores(list(images.values()))
    errors = {True: [], False: []}
    for seed in range(3):
        lq = [
            degrade((image[None] + 1) / 2, "realesrgan", 4.0, seed, resize_back=True)[0][0] * 2 - 1
            for image in images.values()
        ]
        for lora, tagger in ((True, with_lora), (False, without)):
            errors[lora].append((tagger.scores(lq) - good).abs().mean())
    assert sum(errors[True]) < sum(errors[False])
