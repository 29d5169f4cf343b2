"""RAM's size in a real server: Load DAPE and DAPE Prompt give the tags of the core."""

from pathlib import Path

import pytest
import torch
from mini_models.taggers import lora_tensors, official_tensors
from PIL import Image
from server_graphs import by_class, with_photo

from osediff_core.dape import Tagger, TaggerConfig, TaggerWeights, tag_names, write_tagger
from osediff_core.dape.lora import lora_modules, pairs_of
from osediff_core.images import read_image

ROOT = Path(__file__).parents[2]
FILE = "ram_dape.safetensors"
THRESHOLD = 0.5


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
def photo(tmp_path):
    """One of its own: with others, the random weights' scores can lie too near each other."""
    with Image.open(ROOT / "examples" / "photos" / "barn.png") as barn:
        barn.crop((0, 0, 48, 32)).save(tmp_path / "tagged.png")
    return tmp_path / "tagged.png"


def best(file, photo):
    """The core's best tags in the list's order, 4 to 12 of them, and the offset that leaves just these."""
    tagger = Tagger.load(file, dtype=torch.float32, device="cpu")
    scores = tagger.scores([read_image(photo).planes()])[0]
    values, places = scores.topk(13)
    gaps = values[3:-1] - values[4:]
    assert gaps.max() > 1e-4  # far more than float error
    count = int(gaps.argmax()) + 4
    names = [tag_names()[index] for index in sorted(places[:count].tolist())]
    return names, (values[count - 1 : count + 1].mean() - THRESHOLD).item()


@pytest.mark.slow
def test_full_size_tags_are_those_of_the_core(client, restore_photo, photo, tagger_file):
    graph = with_photo(restore_photo, client.upload(photo))
    by_class(graph, "OSEDiff_LoadDAPE")["tagger"] = FILE
    prompt = by_class(graph, "OSEDiff_DAPEPrompt")
    (node,) = (name for name, entry in graph.items() if entry["inputs"] is prompt)
    graph["shown"] = {"class_type": "PreviewAny", "inputs": {"source": [node, 1]}}
    names, prompt["threshold_offset"] = best(tagger_file, photo)
    entry = client.wait(client.queue(graph))
    assert entry["outputs"]["shown"]["text"] == [", ".join(names)]
