"""From pictures to tags and prompts."""

import pytest
import torch
from mini_models.taggers import SMALL, official_tensors

from osediff_core.dape import (
    Tag,
    Tagger,
    TaggerConfig,
    TaggerWeights,
    fitting_prompt,
    preprocess,
    prompt_of,
    tag_names,
    tag_thresholds,
    write_tagger,
)
from osediff_core.dape.choice import open_tagger
from osediff_core.dape.tags import TagTable
from osediff_core.errors import ImageError, OptionError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tagger():
    return Tagger(TaggerWeights(SMALL, official_tensors()).network())


@pytest.fixture(scope="module")
def picture():
    return torch.rand(3, 70, 100, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_the_lists_are_rams():
    english, chinese, thresholds = tag_names(), tag_names("zh"), tag_thresholds()
    assert len(english) == len(chinese) == len(thresholds) == 4585
    assert (english[2], chinese[2], thresholds[2]) == ("abacus", "算盘", 0.65)
    assert (sum(t == 0.65 for t in thresholds), sum(t == 1 for t in thresholds)) == (3414, 10)
    assert (min(thresholds), max(thresholds)) == (0.45, 1.0)
    with pytest.raises(OptionError, match="no names in 'fr'"):
        tag_names("fr")


def test_pictures_are_squashed_without_antialiasing():
    stripes = torch.full((1, 3, 4, 16), -1.0)
    stripes[..., 1::4], stripes[..., 2::4] = 1.0, 1.0  # the only columns that bilinear sampling looks at here
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    white = ((1 - mean) / std).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert torch.allclose(preprocess(stripes, 4), white, atol=1e-6)
    assert preprocess(stripes, 4, antialias=True).max() < white.min()
    assert preprocess(stripes, 8).shape == (1, 3, 8, 8)


def test_grey_alpha_and_single_pixels_are_pictures(tagger, picture):
    grey = picture[:1]
    assert torch.equal(tagger.scores([grey]), tagger.scores([grey.expand(3, -1, -1)]))
    opaque = torch.cat([picture, torch.ones(1, 70, 100)])
    assert torch.equal(tagger.scores([opaque]), tagger.scores([picture]))
    hidden = opaque.clone()
    hidden[:, :, 50:] = -1.0  # black under full transparency, which nobody sees
    assert not torch.equal(tagger.scores([hidden]), tagger.scores([hidden[:3]]))
    one = torch.tensor([0.1, -0.2, 0.3])[:, None, None]
    assert torch.allclose(tagger.scores([one]), tagger.scores([one.expand(3, 9, 2)]), atol=1e-6)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(1, 2, 4, 4), "1, 3 or 4 channels"),
        (torch.zeros(1, 3, 0, 4), "at least one pixel"),
        ([torch.zeros(4, 4)], "channels, height, width"),
        ([], "no picture"),
        (torch.zeros(0, 3, 4, 4), "no picture"),
        (torch.full((1, 3, 4, 4), float("nan")), "NaN or infinite"),
    ],
)
def test_what_is_no_picture_is_refused(tagger, images, said):
    with pytest.raises(ImageError, match=said):
        tagger.scores(images)


def test_a_batch_gives_what_its_pictures_give_alone(tagger, picture):
    pictures = [picture, picture.flip(-1)[:, :33], -picture, picture[:, :1, :1], picture.roll(9, 1)]
    together = tagger.scores(pictures, batch=2)
    assert together.shape == (5, 600)
    for one, scores in zip(pictures, together, strict=True):
        assert torch.allclose(tagger.scores([one])[0], scores, atol=1e-5)
    assert torch.allclose(tagger.scores(torch.stack([picture, -picture])), together[[0, 2]], atol=1e-5)


def test_tags_are_those_above_their_thresholds_in_the_lists_order(tagger, picture):
    scores = tagger.scores([picture])[0]
    limits = torch.tensor([tag_thresholds()[index] for index in SMALL.tags])
    expected = [SMALL.tags[i] for i in range(600) if limits[i] < 1 and scores[i] > limits[i]]
    (tags,) = tagger.tag([picture])
    assert 5 < len(tags) < 500
    assert [tag.index for tag in tags] == expected == sorted(expected)
    assert [tag.name for tag in tags] == [tag_names()[index] for index in expected]
    assert all(tag.score == scores[tag.index - 100] for tag in tags)
    (more,), (fewer,) = (tagger.tag([picture], threshold_offset=offset) for offset in (-0.1, 0.1))
    assert len(fewer) < len(tags) < len(more)
    assert set(fewer) < set(tags) < set(more)


def test_names_in_either_language_exclude_a_tag(tagger, picture):
    (tags,) = tagger.tag([picture])
    (chinese,) = tagger.tag([picture], language="zh")
    assert [tag.index for tag in chinese] == [tag.index for tag in tags]
    assert chinese[0].name == tag_names("zh")[tags[0].index] != tags[0].name
    (left,) = tagger.tag([picture], exclude=[f" {tags[0].name.upper()} ", chinese[1].name, "no such tag"])
    assert left == [tag for tag in tags if tag.name not in (tags[0].name, tags[1].name)]


def test_a_threshold_is_exceeded_strictly_and_one_means_never():
    table = TagTable((5, 8, 9), (0.5, 1.0, 0.25))
    scores = torch.tensor([[0.5, 1.0, 0.5], [0.5001, 0.9, 0.25]])
    assert [[index for index, _ in row] for row in table.above(scores)] == [[9], [5]]
    assert [[index for index, _ in row] for row in table.above(scores, -0.3)] == [[5, 9], [5, 9]]


def test_a_file_may_have_thresholds_of_its_own():
    assert TagTable.of(TaggerConfig(tags=(2, 5), thresholds=(0.1, 0.2))) == TagTable((2, 5), (0.1, 0.2))
    assert TagTable.of(TaggerConfig(tags=(2, 5))).thresholds == (tag_thresholds()[2], tag_thresholds()[5])
    assert len(TagTable.of(TaggerConfig()).indices) == 4585


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_scores(tmp_path, tagger, picture, dtype):
    write_tagger(tmp_path / "t.safetensors", TaggerWeights(SMALL, official_tensors()))
    half = Tagger.load(tmp_path / "t.safetensors", dtype=dtype, device="cpu")
    assert half.dtype != torch.float32
    found, exact = half.scores([picture]), tagger.scores([picture])
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().mean() < 0.05


def test_where_half_precision_overflows_fp32_takes_over(tmp_path, picture, caplog):
    tensors = official_tensors()
    tensors["visual_encoder.norm.weight"] *= 1e4
    tensors["image_proj.weight"] *= 1e4
    write_tagger(tmp_path / "t.safetensors", TaggerWeights(SMALL, tensors))
    half = Tagger.load(tmp_path / "t.safetensors", dtype="fp16", device="cpu")
    assert torch.isfinite(half.scores([picture])).all()
    assert "running it again in fp32" in caplog.text
    assert half.dtype == torch.float16


def test_prompts():
    tags = [Tag("sky", 0.9, 1), Tag("house", 0.8, 2)]
    assert prompt_of(tags) == "sky, house"
    assert prompt_of(tags, "old photo") == "sky, house, old photo"
    assert prompt_of([], "old photo") == "old photo"
    assert prompt_of(tags, official=True) == "sky, house, ,"
    assert prompt_of(tags, "old photo", official=True) == "sky, house, old photo,"
    assert prompt_of([], official=True) == ", ,"


def test_tags_make_way_for_the_users_words():
    tags = ["sky", "house", "tree"]
    assert fitting_prompt(tags, "old photo", lambda text: len(text) < 99) == "sky, house, tree, old photo"
    assert fitting_prompt(tags, "old photo", lambda text: len(text) < 23) == "sky, house, old photo"
    assert fitting_prompt(tags, "old photo", lambda text: False) == "old photo"


def test_no_files_no_tagger(tmp_path):
    with pytest.raises(OptionError, match="There is no tagger"):
        open_tagger(None)
    torch.save({"visual_encoder.layers.0.blocks.0.attn.qkv.lora_A": torch.zeros(1)}, tmp_path / "DAPE.pth")
    with pytest.raises(OptionError, match="only what DAPE changes in RAM"):
        open_tagger(tmp_path / "DAPE.pth")
