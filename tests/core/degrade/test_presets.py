"""Presets in files: those that come along, and a user's own."""

from pathlib import Path

import pytest
import torch
import yaml
from refusals import refused

import osediff_core
from osediff_core.degrade import PRESETS, degrade, degrade_pair, draw, find_preset, sharpen
from osediff_core.errors import OptionError

FOLDER = Path(osediff_core.__file__).parent / "degrade" / "presets"


@pytest.fixture
def own(tmp_path):
    """Writes a preset like "realesrgan" with changes, as text or as a function of the data; returns its path."""

    def write(change=None, name="realesrgan", text=None):
        data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
        if change:
            change(data)
        path = tmp_path / "mine.yaml"
        path.write_text(text if text is not None else yaml.safe_dump(data), encoding="utf-8")
        return str(path)

    return write


def test_every_file_is_a_preset_and_every_value_has_a_comment():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PRESETS)
    for path in FOLDER.glob("*.yaml"):
        explained = {"summary", "method"}
        for line in path.read_text(encoding="utf-8").splitlines():
            key, value = line.strip(" -").partition(":")[::2]
            if "#" in value:
                explained.add(key)
            assert not value.strip() or line.strip(" -").startswith("#") or key in explained, (
                path.name,
                line,
            )


@pytest.mark.parametrize("name", PRESETS)
def test_a_copy_of_a_preset_does_the_same(own, name):
    path = own(name=name)
    image = torch.rand(1, 3, 40, 36)
    ours, (done,) = degrade(image, name, 4, seed=3)
    copied, (same,) = degrade(image, path, 4, seed=3)
    assert torch.equal(ours, copied) and same.steps == done.steps and same.preset == "mine"
    assert find_preset(Path(path))[1] == PRESETS[name]


def test_own_values_count_and_an_edited_file_is_read_anew(own):
    def only_blur(data):
        data["orders"] = [{"blur": {"sigma": [2, 2], "sizes": [9]}}]
        data["final_sinc"] = None

    path = own(only_blur)
    (blur, _resize) = draw(path, (64, 64), 4).steps
    assert blur.kernel.size == 9 and blur.kernel.sigmas == (2, 2)
    path = own(lambda data: data.update(official=True, sharpen_hq=True))
    image = torch.rand(1, 3, 32, 32)
    _, hq, degradation = degrade_pair(image, path)
    assert degradation.round_last and torch.equal(hq, sharpen(image))
    assert not draw(path, (32, 32), official=False).round_last


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(final_sink=1), "final_sink is no key there"),
        (lambda d: d["orders"][1]["noise"].update(gray=1), r"orders\[1\].noise.gray is no key there"),
        (lambda d: d.update(method="esrgan"), "method must be one of realesrgan, codeformer"),
        (lambda d: d.pop("method"), "method must be one of"),
        (lambda d: d.pop("orders"), "orders is missing"),
        (lambda d: d.update(orders=[]), "orders must be at least one order"),
        (lambda d: d.update(official="yes"), "official must be true or false, not 'yes'"),
        (lambda d: d.update(jpeg_last=1.5), "jpeg_last must be a probability from 0 to 1, not 1.5"),
        (lambda d: d.update(jpeg_last=True), "jpeg_last must be a number, not True"),
        (lambda d: d.update(jpeg_last=float("nan")), "jpeg_last must be a finite number"),
        (lambda d: d.update(modes=["nearest"]), "modes must be some of area, bilinear, bicubic"),
        (lambda d: d.update(modes="area"), "modes must be a list, not 'area'"),
        (lambda d: d["orders"][0].update(jpeg=[30, 95.5]), r"orders\[0\].jpeg\[1\] must be a whole number"),
        (lambda d: d["orders"][0].update(jpeg=[95, 30]), r"orders\[0\].jpeg must be two whole numbers"),
        (lambda d: d["orders"][0].update(jpeg=[30]), r"orders\[0\].jpeg must be a list of 2"),
        (lambda d: d["orders"][0].update(resize=3), r"orders\[0\].resize must hold keys and values"),
        (lambda d: d["orders"][0]["resize"].update(up=0.5), r"orders\[0\].resize must be such that up, down"),
        (lambda d: d["orders"][0]["blur"].update(sizes=[8]), r"orders\[0\].blur.sizes must be odd sizes"),
        (
            lambda d: d["orders"][0]["blur"].update(sigma=[0, 1]),
            r"orders\[0\].blur.sigma must be two numbers",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_file_and_the_key(own, change, said):
    path = own(change)
    with refused(OptionError, path, match=said):
        draw(path, (64, 64))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "is no YAML .*line 1"),
        ("[" * 5000, "is no YAML .*nested"),
        ("a: &a [1]\nb: *c", "is no YAML"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{y}: &{y} [{','.join([f'*{x}'] * 10)}]\n"
                for x, y in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "is no YAML .*too many values",
        ),
        ("a: &a [*a]", "is no YAML .*nested"),
        ("2020-99-99", "is no YAML"),
        ("0b_", "is no YAML"),
        ("", "must hold keys and values"),
        ("- 1", "must hold keys and values"),
        ("!!python/object/apply:os.system ['true']", "is no YAML"),
    ],
)
def test_files_that_are_no_presets(own, text, said):
    path = own(text=text)
    with refused(OptionError, path, match=said):
        draw(path, (64, 64))


def test_missing_files(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(OptionError, match=r"cannot be read|no degradation preset"):
            draw(str(path), (64, 64))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(OptionError, match="is a folder, not a file"):
        draw(str(tmp_path / "folder.yaml"), (64, 64))
    (tmp_path / "latin.yaml").write_bytes(b"summary: \xe9")
    with pytest.raises(OptionError, match="cannot be read"):
        draw(str(tmp_path / "latin.yaml"), (64, 64))
