"""The embedded tagger on photographs that it was not trained on: what its card says, in a small way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core.dape import Tagger, read_tagger, tag_names
from osediff_core.dape.choice import TINY_TAGGER, open_tagger
from osediff_core.weights.tensor_file import safetensors_header
from training.recipes.tiny_dape.colours import NAMES, colour_tags
from training.recipes.tiny_dape.recolour import recoloured

PHOTOS = Path(__file__).parents[3] / "examples/photos"  # of the Kodak suite, all held out
PICTURES = ("barn", "lighthouse", "parrots", "plane")


@pytest.fixture(scope="module")
def images():
    found = {}
    for name in PICTURES:
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


def test_the_colours_it_names_are_there(images):
    tagger, rng = Tagger.load(TINY_TAGGER, dtype="fp32", device="cpu"), np.random.default_rng(0)
    levels = [((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy() for image in images.values()]
    pictures = [picture for _ in range(6) for level in levels for picture in recoloured(level[None], rng)]
    tags = tagger.tag([torch.from_numpy(p).permute(2, 0, 1).float() / 127.5 - 1 for p in pictures])
    found = [{tag.name for tag in given} for given in tags]
    assert set().union(*found) <= set(tag_names())
    there = [colour_tags(picture) for picture in pictures]
    given = sum(len(names & set(NAMES)) for names in found)
    right = sum(len(names & colours) for names, colours in zip(found, there, strict=True))
    assert right >= 0.6 * given and right >= 0.5 * sum(map(len, there)) and right >= 10
