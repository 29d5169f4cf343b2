"""Official files and ours: what is read, what is refused and how that is said."""

import json
import logging

import pytest
import safetensors.torch
import torch
from mini_models.taggers import SMALL, lora_tensors, official_tensors
from refusals import refused

from osediff_core.dape import TaggerConfig, TaggerNetwork, TaggerWeights, read_tagger, write_tagger
from osediff_core.errors import CheckpointError, OptionError
from osediff_core.weights import tensor_file
from osediff_core.weights.describe import describe
from osediff_core.weights.identify import identify

pytestmark = pytest.mark.usefixtures("one_thread")

# What official files hold beside the tensors that tagging uses.
BESIDE = {
    "visual_encoder.layers.0.blocks.0.attn.relative_position_index": torch.zeros(4, 4, dtype=torch.long),
    "visual_encoder.layers.0.blocks.1.attn_mask": torch.zeros(1, 4, 4),
    "tag_encoder.embeddings.word_embeddings.weight": torch.full((4, 4), float("nan")),
    "text_decoder.cls.predictions.bias": torch.zeros(3, dtype=torch.int32),
}


def ram_content(tensors=None):
    """As recognize-anything saves it, with the optimizer's two moments."""
    model = {**BESIDE, **(tensors or official_tensors())}
    state = {i: {"exp_avg": t, "exp_avg_sq": t} for i, t in enumerate(model.values())}
    return {"model": model, "optimizer": {"state": state, "param_groups": []}, "config": {}, "epoch": 9}


@pytest.fixture(scope="module")
def ram(tmp_path_factory):
    path = tmp_path_factory.mktemp("ram") / "ram.pth"
    torch.save(ram_content(), path)
    return path


@pytest.fixture(scope="module")
def dape(tmp_path_factory):
    path = tmp_path_factory.mktemp("dape") / "DAPE.pth"
    unused = "tag_encoder.encoder.layer.0.crossattention.self.query.lora_"
    torch.save({**lora_tensors(), unused + "A": torch.ones(2, 32), unused + "B": torch.zeros(32, 2)}, path)
    return path


def read(path, dape=False, **options):
    return read_tagger(path, dape, config=SMALL, **options)


@pytest.mark.parametrize("piece", [1, 2**24])
@pytest.mark.parametrize("zipped", [True, False])
def test_ram_is_read_whole_and_nothing_else_is(ram, tmp_path, monkeypatch, piece, zipped):
    monkeypatch.setattr(tensor_file, "_PIECE", piece)
    torch.save(ram_content(), tmp_path / "ram.pth", _use_new_zipfile_serialization=zipped)
    weights = read(tmp_path / "ram.pth")
    expected = official_tensors()
    assert weights.tensors.keys() == expected.keys()
    assert all(torch.equal(weights.tensors[name], expected[name]) for name in expected)
    assert not weights.adapted


def test_the_tagging_head_may_have_its_older_name(tmp_path):
    older = {name.replace("tagging_head.", "vision_multi."): t for name, t in official_tensors().items()}
    torch.save({"model": older}, tmp_path / "ram.pth")
    assert read(tmp_path / "ram.pth").tensors.keys() == official_tensors().keys()


def test_dape_is_merged_before_rounding(ram, dape):
    exact, half = read(ram, dape), read(ram, dape, dtype=torch.bfloat16)
    plain, changed = official_tensors(), 0
    for name, tensor in exact.tensors.items():
        assert torch.equal(half.tensors[name], tensor.bfloat16())
        changed += not torch.equal(tensor, plain[name])
    assert (changed, exact.adapted) == (8, True)
    width = SMALL.swin_width
    qkv = "visual_encoder.layers.0.blocks.0.attn.qkv.weight"
    assert torch.equal(exact.tensors[qkv][width : 2 * width], plain[qkv][width : 2 * width])


def test_one_file_gives_ram_alone_and_with_dape(ram, dape, tmp_path):
    both = read(ram, dape, merge=False)
    both.metadata["made_by"] = "a test"
    write_tagger(tmp_path / "both.safetensors", both)
    alone, adapted = (
        read_tagger(tmp_path / "both.safetensors", False),
        read_tagger(tmp_path / "both.safetensors"),
    )
    assert (alone.config, alone.metadata["made_by"], alone.metadata["dape"]) == (SMALL, "a test", "lora")
    for found, expected in ((adapted, read(ram, dape)), (alone, read(ram))):
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_half_precision_halves_the_file(ram, dape, tmp_path):
    weights = read(ram, dape, merge=False)
    for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        write_tagger(tmp_path / f"{name}.safetensors", weights, name)
        found = safetensors.torch.load_file(tmp_path / f"{name}.safetensors")
        assert {t.dtype for n, t in found.items() if "lora_" not in n} == {dtype}
        assert {t.dtype for n, t in found.items() if "lora_" in n} == {torch.float32}
    sizes = {path.stem: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    write_tagger(tmp_path / "again.safetensors", weights, "fp16")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "fp16.safetensors").read_bytes()


def test_a_trained_network_is_written_and_read(tmp_path):
    config = TaggerConfig(**{**json.loads(SMALL.to_json()), "tags": (3, 17), "thresholds": (0.5, 0.25)})
    config = TaggerConfig.from_json(config.to_json())
    network = TaggerNetwork(config).eval()
    write_tagger(tmp_path / "small.safetensors", TaggerWeights.from_network(network))
    weights = read_tagger(tmp_path / "small.safetensors")
    assert weights.config == config
    with torch.inference_mode():
        pixels = torch.randn(1, 3, 48, 48)
        assert torch.equal(weights.network()(pixels), network(pixels))


def test_files_are_told_apart(ram, dape, tmp_path):
    write_tagger(tmp_path / "small.safetensors", read(ram, dape, merge=False))
    assert identify(dape).kind == "dape"
    found = identify(tmp_path / "small.safetensors")
    assert (found.kind, found.details["dape"]) == ("tagger", "lora")
    assert describe(tmp_path / "small.safetensors")["kind"] == "tagger"


def broken_files(tmp_path):
    """name -> (content, what the message must say)."""
    good = official_tensors()
    nan = {**good, "fc.weight": torch.full_like(good["fc.weight"], float("nan"))}
    whole = {**good, "fc.bias": torch.zeros(1, dtype=torch.int64)}
    return {
        "no_label_embed": ({n: t for n, t in good.items() if n != "label_embed"}, "1 missing (label_embed)"),
        "nan": (nan, "holds NaN or infinite values in fc.weight"),
        "integers": (whole, "fc.bias is not of floats"),
        "window": (
            {n: t[:-1] if n.endswith("table") else t for n, t in good.items()},
            "4 of another shape (visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table is (120, 2) and "
            "should be (121, 2)",
        ),
        "head_only": ({n: t for n, t in good.items() if n.startswith("tagging")}, "not a tagger"),
        "ram_plus_plus": ({**good, "label_embed": torch.zeros(233835, 1)}, "is RAM++"),
        "dape_alone": (
            lora_tensors(),
            "DAPE, the prompt extractor's LoRA, not a tagger; give RAM's weights beside",
        ),
        "esrgan": (
            {"conv_first.weight": torch.zeros(3)},
            "is an upscaler network such as ESRGAN, not a tagger",
        ),
        "nothing": ({}, "is a file without tensors, not a tagger"),
    }


@pytest.mark.parametrize("name", list(broken_files(None)))
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_tagger_is_refused_in_one_sentence(tmp_path, name, suffix):
    content, said = broken_files(tmp_path)[name]
    path = tmp_path / f"{name}{suffix}"
    torch.save(content, path) if suffix == ".pth" else safetensors.torch.save_file(content, path)
    with refused(CheckpointError, said) as error:
        read(path)
    assert str(error.value).startswith(str(path))


def test_damaged_and_foreign_files_are_refused(ram, tmp_path):
    data = ram.read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    (tmp_path / "page.pth").write_text("<html>")
    write_tagger(tmp_path / "whole.safetensors", read(ram))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-9])
    torch.save(SMALL, tmp_path / "code.pth")
    for name, said in {
        "cut.pth": "cut short, damaged",
        "cut.safetensors": "cut short or damaged",
        "page.pth": "a web page or XML, probably a failed download; give RAM's weights",
        "code.pth": "holds Python code or objects (osediff_core.dape.config.TaggerConfig",
        "gone.pth": "does not exist",
    }.items():
        with pytest.raises(CheckpointError, match=said.replace("(", r"\(")):
            read(tmp_path / name)


def test_wrong_dape_files_are_refused(ram, dape, tmp_path):
    lora = lora_tensors()
    head = "tagging_head.encoder.layer.1.crossattention.self.key.lora_B"
    wrong = {
        "missing": ({n: t for n, t in lora.items() if n != head}, rf"15|16 tensors .* 1 missing \({head}"),
        "shape": ({**lora, head: torch.zeros(7, 2)}, r"is \(7, 2\) and should be \(32, 2\)"),
        "nan": ({**lora, head: torch.full((32, 2), torch.inf)}, f"infinite values in {head}"),
        "ram": (ram_content(), "is an unknown kind of model, not DAPE|is .*RAM.* not DAPE"),
        "empty": ({}, "not DAPE"),
    }
    for name, (content, said) in wrong.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(CheckpointError, match=said):
            read(ram, tmp_path / f"{name}.pth")
    merged = read(ram, dape)
    write_tagger(tmp_path / "merged.safetensors", merged)
    with pytest.raises(CheckpointError, match="already merged"):
        read_tagger(tmp_path / "merged.safetensors", dape)


def test_lora_that_the_official_code_would_add_twice_is_mentioned(ram, dape, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        read(ram, dape)
    assert not caplog.records
    name = "tag_encoder.encoder.layer.1.crossattention.self.key.lora_B"
    torch.save({**lora_tensors(), name: torch.ones(32, 2)}, tmp_path / "DAPE.pth")
    with caplog.at_level(logging.WARNING):
        read(ram, tmp_path / "DAPE.pth")
    assert "also adapts RAM's tag_encoder" in caplog.text


def test_values_too_large_for_fp16_are_named(tmp_path):
    tensors = official_tensors()
    tensors["image_proj.bias"][3] = 1e6
    torch.save(tensors, tmp_path / "ram.pth")
    with pytest.raises(
        CheckpointError, match=r"image_proj\.bias has values too large for fp16; use fp32 or bf16"
    ):
        read(tmp_path / "ram.pth", dtype=torch.float16)
    weights = read(tmp_path / "ram.pth")
    with pytest.raises(CheckpointError, match="too large for fp16"):
        write_tagger(tmp_path / "out.safetensors", weights, "fp16")
    assert not (tmp_path / "out.safetensors").exists()
    assert read(tmp_path / "ram.pth", dtype=torch.bfloat16).tensors["image_proj.bias"][3] > 9e5


def test_where_a_tagger_cannot_be_written(ram, tmp_path):
    weights = read(ram)
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors"):
        write_tagger(tmp_path / "out.pth", weights)
    with pytest.raises(CheckpointError, match="create its folder first"):
        write_tagger(tmp_path / "no" / "out.safetensors", weights)
    with pytest.raises(OptionError, match="int8"):
        write_tagger(tmp_path / "out.safetensors", weights, "int8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "2"}, "format version 2"),
        ({"config": "{}x"}, "configuration cannot be read; convert it again"),
    ],
)
def test_metadata_of_another_version_are_refused(ram, tmp_path, changes, said):
    write_tagger(tmp_path / "a.safetensors", read(ram))
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    metadata = {"format": "osediff-tagger", "version": "1", "config": SMALL.to_json(), **changes}
    safetensors.torch.save_file(tensors, tmp_path / "b.safetensors", metadata)
    with pytest.raises(CheckpointError, match=said):
        read_tagger(tmp_path / "b.safetensors")
