"""RAM's size in a real server: Load DAPE and DAPE Prompt give the tags of the core."""

import numpy as np
import pytest
import torch
from mini_models.taggers import lora_tensors, official_tensors
from PIL import Image
from server_graphs import ROOT

from osediff_core.dape import Tagger, TaggerConfig, TaggerWeights, tag_names, write_tagger
from osediff_core.dape.lora import lora_modules, pairs_of

FILE = "ram_dape.safetensors"
THRESHOLD = 0.5
CROPS = (7, 40)
TAGS = 200  # of each picture, at least: enough that most lie beyond any tolerance
MARGIN = 1e-4  # float error; fp16 moves the scores of such random weights by thirty times as much, and so their tags


@pytest.fixture(scope="module")
def tagger_file(server):
    """Random weights of RAM's own size with DAPE's LoRA beside them, fp16: 0.43 GB."""
    config = TaggerConfig(thresholds=(THRESHOLD,) * 4585)
    lora = pairs_of(lora_tensors(config), lora_modules(config))
    folder = server.base / "models" / "osediff"
    folder.mkdir(parents=True, exist_ok=True)
    write_tagger(folder / FILE, TaggerWeights(config, official_tensors(config), lora), "fp16")
    yield folder / FILE
    (folder / FILE).unlink()


@pytest.fixture
def photos(tmp_path):
    """One picture above the other, 32 pixels each: as many as there are crops."""
    tall = Image.new("RGB", (48, 32 * len(CROPS)))
    with Image.open(ROOT / "examples" / "photos" / "barn.png") as barn:
        for place, left in enumerate(CROPS):
            tall.paste(barn.crop((left, 0, left + 48, 32)), (0, 32 * place))
    tall.save(tmp_path / "tagged.png")
    return tmp_path / "tagged.png"


def graph_of(name, offset):
    """The prompts of the pictures in the uploaded one, as text."""
    graph = {
        "photo": {"class_type": "LoadImage", "inputs": {"image": name}},
        "model": {
            "class_type": "OSEDiff_Load",
            "inputs": {
                "base": "tiny (embedded)",
                "weights": "none",
                "unet_strength": 1.0,
                "vae_strength": 1.0,
                "dtype": "auto",
            },
        },
    }
    batch = None
    for place in range(len(CROPS)):
        crop = {"image": ["photo", 0], "x": 0, "y": 32 * place, "width": 48, "height": 32}
        graph[f"crop {place}"] = {"class_type": "ImageCrop", "inputs": crop}
        if batch is not None:
            graph[f"batch {place}"] = {
                "class_type": "ImageBatch",
                "inputs": {"image1": [batch, 0], "image2": [f"crop {place}", 0]},
            }
        batch = f"crop {place}" if batch is None else f"batch {place}"
    tagger = {"tagger": FILE, "dape": "none", "dtype": "fp32"}
    graph["tagger"] = {"class_type": "OSEDiff_LoadDAPE", "inputs": tagger}
    graph["prompt"] = {
        "class_type": "OSEDiff_DAPEPrompt",
        "inputs": {
            "clip": ["model", 1],
            "image": [batch, 0],
            "tagger": ["tagger", 0],
            "extra_prompt": "",
            "exclude_tags": "",
            "threshold_offset": offset,
            "prompt_override": "",
            "official": True,  # all tags, however many; else as many as CLIP takes
        },
    }
    graph["shown"] = {"class_type": "PreviewAny", "inputs": {"source": ["prompt", 1]}}
    return graph


@pytest.mark.slow
def test_full_size_tags_are_those_of_the_core(client, photos, tagger_file):
    pixels = torch.from_numpy(np.array(Image.open(photos), dtype=np.float32)).movedim(-1, 0) / 127.5 - 1
    core = Tagger.load(tagger_file, dtype="fp32", device="cpu")
    scores = core.scores(pixels.split(32, dim=1))
    threshold = scores.topk(TAGS).values[:, -1].min().item()
    entry = client.wait(client.queue(graph_of(client.upload(photos), threshold - THRESHOLD)))
    lines = entry["outputs"]["shown"]["text"][0].splitlines()
    places = {name: index for index, name in enumerate(tag_names())}
    assert len(lines) == len(CROPS)
    for line, row in zip(lines, scores, strict=True):
        names = line.replace("\\", "").removesuffix(", ,").split(", ")  # without the escapes of brackets
        found = [places[name] for name in names]
        assert found == sorted(found)
        surely, perhaps = (set((row > threshold + m).nonzero()[:, 0].tolist()) for m in (MARGIN, -MARGIN))
        assert len(surely) >= TAGS // 2
        assert surely <= set(found) <= perhaps
