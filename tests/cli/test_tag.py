"""`osediff tag`, and the tagger in `osediff upscale`, `convert` and `info`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mini_models.taggers import SMALL, lora_tensors, official_tensors
from PIL import Image

from osediff_core.dape import Tagger, TaggerWeights, prompt_of, read_tagger, write_tagger
from osediff_core.images import read_image

pytestmark = pytest.mark.usefixtures("one_thread")


def save_photo(path, size=(40, 24), seed=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """ram and dape: what two official files hold, of a small tagger; both: the two as one file."""
    folder = tmp_path_factory.mktemp("tagger")
    write_tagger(folder / "ram.safetensors", TaggerWeights(SMALL, official_tensors()))
    torch.save(lora_tensors(), folder / "DAPE.pth")
    write_tagger(
        folder / "both.safetensors", read_tagger(folder / "ram.safetensors", folder / "DAPE.pth", merge=False)
    )
    return folder


def tags_of(files, path, dape, **options):
    tagger = Tagger.load(files / "ram.safetensors", files / "DAPE.pth" if dape else False, device="cpu")
    return tagger.tag([read_image(path).planes()], **options)[0]


def test_pictures_are_tagged_with_scores(osediff, files):
    for number, mode in enumerate(("RGB", "L", "RGBA")):
        save_photo(Path(f"in/{mode}.png"), seed=number, mode=mode)
    save_photo(Path("in/one.png"), size=(1, 1))
    Path("in/broken.png").write_bytes(b"\x89PNG\r\n")
    status, out, err = osediff("tag", "in", "--dape", files / "both.safetensors", "--device", "cpu", "--json")
    data = json.loads(out)
    assert (status, data["tagged"], data["failed"]) == (1, 4, 1)
    assert "broken.png" in err
    for record in data["results"]:
        if record["status"] == "tagged":
            expected = tags_of(files, record["input"], dape=True)
            assert [tag["name"] for tag in record["tags"]] == [tag.name for tag in expected]
            assert np.allclose([t["score"] for t in record["tags"]], [t.score for t in expected], atol=1e-6)
            assert record["prompt"] == prompt_of(expected)


def test_as_text_there_is_a_line_for_each_picture(osediff, files):
    save_photo(Path("a.png"))
    both = ["--dape", files / "DAPE.pth", "--ram", files / "ram.safetensors"]
    status, out, _ = osediff(
        "tag", "a.png", *both, "--official-prompt", "--language", "zh", "--dtype", "fp32"
    )
    expected = tags_of(files, "a.png", dape=True, language="zh")
    assert (status, out.splitlines()) == (
        0,
        [f"a.png: {prompt_of(expected, official=True)}", "1 tagged, 0 skipped, 0 failed"],
    )
    assert out.splitlines()[0].endswith(", ,")


def test_ram_alone_is_without_dape(osediff, files):
    save_photo(Path("a.png"))
    outs = [
        osediff("tag", "a.png", *options, "--device", "cpu")[1]
        for options in (["--ram", files / "both.safetensors"], ["--dape", files / "both.safetensors"])
    ]
    assert outs[0].startswith(f"a.png: {prompt_of(tags_of(files, 'a.png', dape=False))}\n")
    assert outs[0] != outs[1]


def test_excluding_and_offset(osediff, files):
    save_photo(Path("a.png"))
    first, second, *_ = (tag.name for tag in tags_of(files, "a.png", dape=True))
    options = ["--exclude-tags", f"{first}, {second.upper()}", "--tag-offset", "0.1", "--json"]
    _, out, _ = osediff("tag", "a.png", "--dape", files / "both.safetensors", *options)
    found = [tag["name"] for tag in json.loads(out)["results"][0]["tags"]]
    expected = tags_of(files, "a.png", dape=True, threshold_offset=0.1, exclude=[first, second])
    assert found == [tag.name for tag in expected]
    assert len(found) > 0


@pytest.mark.parametrize("official", [False, True])
def test_upscale_tells_the_restoration_what_is_seen(osediff, files, small, official):
    save_photo(Path("a.png"), size=(12, 10))
    options = ["--base", small.base, "--weights", small.weights, "--device", "cpu", "--json"]
    options += ["--dape", files / "both.safetensors", "--prompt", "old photo"]
    status, out, err = osediff(
        "upscale", "a.png", "-o", "with.png", *options, *["--official-prompt"][:official]
    )
    prompt = json.loads(out)["results"][0]["prompt"]
    assert status == 0 and prompt in err
    if official:
        assert prompt.endswith(", old photo,")
        assert "its end is left out" in err
    else:
        assert prompt.endswith(", old photo") and prompt.count(",") > 5
        assert "its end is left out" not in err
        save_photo(Path("b.png"), size=(12, 10))
        osediff("upscale", "a.png", "-o", "said.png", *options[:6], "--prompt", prompt)
        assert Path("said.png").read_bytes() == Path("with.png").read_bytes()


def test_without_files_there_is_no_tagger(osediff, files):
    save_photo(Path("a.png"))
    for options, status, said in (
        ([], 2, "There is no tagger"),
        (["--dape", files / "DAPE.pth"], 2, "only what DAPE changes in RAM"),
        (["--ram", files / "DAPE.pth"], 1, "not a tagger"),
        (["--dape", "gone.pth"], 1, "does not exist"),
        (["--ram", "a.png"], 1, "is a PNG image; give RAM's weights"),
    ):
        got, out, err = osediff("tag", "a.png", *options)
        assert (got, out) == (status, "") and len(err.splitlines()) == 1 and said in err


def test_a_taggers_options_need_a_tagger(osediff):
    for option in (["--exclude-tags", "sky"], ["--tag-offset", "0.1"], ["--official-prompt"]):
        status, _, err = osediff("upscale", "a.png", "-o", "b.png", *option)
        assert status == 2 and "give one by --dape or --ram" in err


def test_convert_puts_both_into_one_small_file(osediff, files):
    ram, lora = files / "ram.safetensors", files / "DAPE.pth"
    status, out, err = osediff("convert", ram, "one.safetensors", "--dape", lora, "--json")
    assert status == 0, err
    assert json.loads(out)["bytes"] == Path("one.safetensors").stat().st_size < 0.6 * ram.stat().st_size
    facts = json.loads(osediff("info", "one.safetensors", "--json")[1])
    assert (facts["kind"], facts["details"]["dape"], set(facts["dtypes"])) == (
        "tagger",
        "lora",
        {"float16", "float32"},
    )
    found = read_tagger("one.safetensors", dtype=torch.float32).tensors
    exact = read_tagger(ram, lora).tensors
    assert all(torch.allclose(found[name], exact[name], rtol=1e-2, atol=1e-2) for name in exact)
    assert osediff("convert", ram, "alone.safetensors", "--dtype", "bf16")[0] == 0
    assert read_tagger("alone.safetensors").metadata["dape"] == "none"
    assert osediff("convert", ram, "one.pkl")[0] == 2
