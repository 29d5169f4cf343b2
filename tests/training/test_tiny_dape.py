"""How the embedded tagger is made: its labels, its photographs, its thresholds; on small data of the tests' own."""

import numpy as np
import pytest
from PIL import Image

from osediff_core.dape import tag_names
from training.recipes.tiny_dape import class_tags as classes
from training.recipes.tiny_dape.calibrate import threshold_for, thresholds
from training.recipes.tiny_dape.colours import colour_tags
from training.recipes.tiny_dape.crops import as_student_sees, draw_crop
from training.recipes.tiny_dape.metrics import agreement, average_precisions, prevalence
from training.recipes.tiny_dape.photographs import (
    HELD_OUT,
    TRAIN,
    Photograph,
    find_photographs,
    listed_tags,
    splits,
)
from training.recipes.tiny_dape.recolour import recoloured
from training.recipes.tiny_dape.targets import LISTED, MEASURED, TEACHER, choose_vocabulary, targets
from training.recipes.tiny_dape.wordnet import Nouns

DATA = """  1 a licence, which is no entry
00000010 03 n 01 entity 0 000 | what there is
00000020 05 n 02 animal 0 beast 0 001 @ 00000010 n 0000 | a living thing
00000030 05 n 02 dog 0 domestic_dog 0 001 @ 00000020 n 0000 | it barks
00000040 05 n 01 Golden_Retriever 0 001 @ 00000030 n 0000 | it fetches
00000050 06 n 01 dog 1 001 @ 00000010 n 0000 | an iron one
"""
INDEX = """  1 a licence
animal n 1 1 @ 1 1 00000020
beast n 1 1 @ 1 1 00000020
dog n 2 1 @ 2 1 00000050 00000030
golden_retriever n 1 1 @ 1 0 00000040
"""


@pytest.fixture
def nouns(tmp_path):
    (tmp_path / "data.noun").write_text(DATA)
    (tmp_path / "index.noun").write_text(INDEX)
    return Nouns(tmp_path)


def test_wordnet(nouns):
    assert nouns.closure(40) == [40, 30, 20, 10]
    assert nouns.synsets[30].words == ("dog", "domestic_dog")
    assert nouns.is_first_sense("Golden Retriever", 40) and not nouns.is_first_sense("dog", 30)


def test_a_class_has_the_tags_it_is_a_kind_of_in_their_usual_sense(nouns):
    found = dict(classes.find_class_tags(nouns, ["n00000040"] * 1000))
    assert found["tench"] == [
        "golden retriever",
        "animal",
    ]  # not "dog", an iron one here, nor the general "beast"
    assert found["alp"][-4:] == ["mountain", "mountain range", "peak", "landscape"]


def test_the_committed_class_tags():
    listed = dict(zip(classes.imagenet_names(), classes.class_tags(), strict=True))
    names = tag_names()
    assert [names[tag] for tag in listed["golden retriever"]][:3] == ["golden retriever", "retriever", "dog"]
    assert "water" in [names[tag] for tag in listed["lakeside"]]
    assert sum(bool(tags) for tags in listed.values()) > 900


def test_lists_of_photographs_are_of_known_tags_and_split_once_for_all():
    known, parts = set(tag_names()), splits()
    assert all(set(tags) <= known and len(set(tags)) == len(tags) for tags in listed_tags().values())
    assert parts == splits() and set(parts) == set(listed_tags())
    assert all(parts[key] == HELD_OUT for key in parts if key.startswith("kodak/"))
    others = [part for key, part in parts.items() if not key.startswith("kodak/")]
    assert others.count(HELD_OUT) == round(0.15 * len(others)) and others.count(TRAIN) > 0.7 * len(others)


def test_missing_photographs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"154 photographs .* clic2025/0369d229: run"):
        find_photographs(tmp_path)


@pytest.fixture
def photos():
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (6, 9, 3), dtype=np.uint8) for _ in range(2)]
    return [Image.fromarray(picture).resize((900, 600), Image.Resampling.BICUBIC) for picture in small]


def test_crops_follow_from_their_generator(photos):
    first, again, other = (
        [draw_crop(photos, n % 2, rng) for n in range(30)] for rng in map(np.random.default_rng, (1, 1, 2))
    )
    assert [crop.image.tobytes() for crop in first] == [crop.image.tobytes() for crop in again]
    assert [crop.image.size for crop in first] != [crop.image.size for crop in other]
    assert {crop.mixed for crop in first} == {crop.wide for crop in first} == {True, False}
    assert not any(crop.wide and crop.mixed for crop in first)
    assert min(min(crop.image.size) for crop in first) >= 90
    seen = as_student_sees(first[0].image, 64, np.random.default_rng(0))
    assert seen.shape == (64, 64, 3) and seen.dtype == np.uint8


def photograph(key, *tags, split=TRAIN):
    return Photograph(key, None, tags, split)


def test_targets_say_only_what_is_known():
    listed = [photograph(f"a/{n}", "sky", "dog") for n in range(3)] + [photograph("a/3"), photograph("a/4")]
    tench, retriever = (classes.imagenet_names().index(name) for name in ("tench", "golden retriever"))
    photos = np.repeat(np.arange(5), 10)
    likely = np.zeros((50, 1000), np.float16)
    likely[photos >= 3, tench] = 0.9
    likely[photos < 3, retriever] = 0.2
    vocabulary = choose_vocabulary(listed, likely, photos)
    kinds = dict(zip(vocabulary.names, vocabulary.kinds, strict=True))
    assert kinds["sky"] == kinds["dog"] == LISTED and kinds["fish"] == TEACHER and kinds["red"] == MEASURED
    assert "golden retriever" not in kinds and list(vocabulary.tags) == sorted(vocabulary.tags)

    images = np.zeros((50, 8, 8, 3), np.uint8)
    images[..., 0] = 200
    wide, mixed = np.arange(50) % 10 < 5, np.arange(50) % 10 == 9
    wanted, weights = targets(vocabulary, listed, images, photos, wide, mixed, likely)
    sky, fish, red = (vocabulary.names.index(name) for name in ("sky", "fish", "red"))
    has = photos < 3
    assert (wanted[has & wide, sky] == 1).all() and (weights[has & wide, sky] == 1).all()
    assert (weights[has & ~wide, sky] == 0).all()  # a small crop may show something else
    assert (wanted[~has, sky] == 0).all() and (weights[~has, sky] == ~mixed[~has]).all()
    assert np.allclose(wanted[~has, fish], 0.9, atol=1e-3) and (wanted[has, fish] == 0).all()
    assert (wanted[:, red] == 1).all() and (weights[:, red] == 1).all()


def test_thresholds_reach_the_precision_they_are_chosen_for():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    wanted = np.array([1, 1, 0, 1, 0, 0], bool)
    assert threshold_for(scores, wanted, 0.75) == pytest.approx(0.55)
    assert threshold_for(scores, wanted, 1.0) == pytest.approx(0.75)
    assert threshold_for(scores, ~wanted, 0.9) == 1.0  # the best guess is wrong already: never

    rng = np.random.default_rng(0)
    photos = np.repeat(np.arange(20), 100)
    wanted = rng.random((2000, 3)) < (0.3, 0.3, 0.3)
    wanted[photos >= 3, 2] = False
    scores = np.clip(0.3 * wanted + rng.normal(0.4, 0.15, wanted.shape), 0, 1)
    found = thresholds(scores, wanted, np.ones_like(wanted), photos, 0.8)
    given = scores > found
    for tag in range(2):
        assert (wanted & given)[:, tag].sum() / given[:, tag].sum() == pytest.approx(0.8, abs=0.02)
    assert found[2] == 1.0  # in too few photographs to be judged: never given


def test_recoloured_photographs_have_other_colours():
    images = np.full((2, 8, 8, 3), (150, 110, 60), np.uint8)
    seen = [recoloured(images, np.random.default_rng(seed)) for seed in range(40)]
    assert seen[0].shape == images.shape and seen[0].dtype == np.uint8
    assert np.array_equal(seen[3], recoloured(images, np.random.default_rng(3)))
    tags = {tag for several in seen for image in several for tag in colour_tags(image)}
    assert {"red", "yellow", "green", "blue", "purple", "dark"} <= tags


def test_a_colour_is_named_where_enough_of_the_picture_is_clearly_of_it():
    picture = np.full((10, 10, 3), 128, np.uint8)
    assert colour_tags(picture) == set()
    picture[:3] = (20, 60, 220)
    assert colour_tags(picture) == {"blue"}
    picture[3:6] = (220, 30, 40)
    assert colour_tags(picture) == {"blue", "red"}
    picture[5:] = 128
    assert colour_tags(picture) == {"blue"}  # two tenths of red are too few
    assert colour_tags(picture // 5) == {"dark"} and colour_tags(picture // 8 + 220) == {"bright"}


def test_figures():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    wanted = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], bool)
    known = np.array([[1, 1], [0, 1], [1, 1], [1, 1]], bool)
    precisions = average_precisions(scores, wanted, known)
    assert precisions[0] == pytest.approx(1.0) and np.isnan(precisions[1])
    assert average_precisions(scores, wanted, np.ones_like(known))[0] == pytest.approx((1 + 2 / 3) / 2)
    assert prevalence(wanted, known)[0] == pytest.approx(2 / 3)
    assert agreement(scores, wanted, 1) == 0.5 and agreement(scores, ~wanted, 2) == 1.0
