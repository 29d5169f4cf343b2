"""LoRA as peft trains it against LoRA as the core merges it, and DAPE's two losses."""

import pytest
import torch
from mini_models.taggers import MINI, mini_network, write_mini_tagger

from osediff_core.dape import Tagger, preprocess, read_tagger
from osediff_core.dape.lora import lora_modules
from osediff_core.errors import CheckpointError
from training.dape.adapters import DapeAdapters, pth_bytes, safetensors_bytes
from training.dape.config import DapeLossConfig
from training.dape.step import DapeStep, distances, seen

RANK = 4
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def images():
    small = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return torch.nn.functional.interpolate(small, (40, 48), mode="bicubic").clamp(-1, 1)


@pytest.fixture
def stirred():
    """(network, adapters) whose LoRA matters."""
    network = mini_network()
    adapters = DapeAdapters(network, RANK)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapters.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.5)
    return network, adapters


@torch.no_grad()
def outputs(network, images):
    return seen(network, preprocess(images, MINI.image_size))


def test_fresh_lora_changes_nothing_and_off_is_the_network_itself(images, stirred):
    before = outputs(mini_network(), images)
    fresh = mini_network()
    DapeAdapters(fresh, RANK)
    network, adapters = stirred
    with adapters.off():
        off = outputs(network, images)
    for expected, *found in zip(before, outputs(fresh, images), off, strict=True):
        assert all(torch.allclose(value, expected, atol=1e-6) for value in found)
    assert (outputs(network, images)[1] - before[1]).abs().max() > 0.1


@pytest.mark.parametrize(("name", "content"), [
    ("DAPE.pth", pth_bytes), ("dape.safetensors", lambda pairs: safetensors_bytes(pairs, {})),
])  # fmt: skip
def test_the_core_reads_and_merges_what_was_trained(name, content, images, stirred, tmp_path):
    network, adapters = stirred
    tagger = write_mini_tagger(tmp_path / "tagger.safetensors")
    (tmp_path / name).write_bytes(content(adapters.pairs()))
    merged = read_tagger(tagger, tmp_path / name)
    assert merged.adapted
    found = outputs(merged.network(), images)
    for value, expected in zip(found, outputs(network, images), strict=True):
        assert (value - expected).abs().max() < 1e-4


def test_a_dape_pth_has_the_official_names_and_shapes(stirred):
    _, adapters = stirred
    pairs = adapters.pairs()
    assert list(pairs) == lora_modules(MINI)
    qkv = pairs["visual_encoder.layers.1.blocks.0.attn.qkv"]
    assert qkv.A.shape == (2 * RANK, 32) and qkv.B.shape == (2 * 32, RANK)
    key = pairs["tagging_head.encoder.layer.1.crossattention.self.key"]
    assert key.A.shape == (RANK, MINI.image_width) and key.B.shape == (MINI.head_width, RANK)


def test_training_goes_on_from_a_dape_pth(images, stirred, tmp_path):
    network, adapters = stirred
    (tmp_path / "DAPE.pth").write_bytes(pth_bytes(adapters.pairs()))
    tagger = write_mini_tagger(tmp_path / "tagger.safetensors")
    pairs = read_tagger(tagger, tmp_path / "DAPE.pth", merge=False).lora
    again = mini_network()
    DapeAdapters(again, RANK, seed=9).load(pairs, "DAPE.pth")
    assert torch.equal(outputs(again, images)[1], outputs(network, images)[1])
    with pytest.raises(CheckpointError, match="no LoRA of rank 8"):
        DapeAdapters(mini_network(), 8).load(pairs, "DAPE.pth")


def test_only_lora_learns_and_each_loss_reaches_what_it_should(images, stirred):
    network, adapters = stirred
    reached = {}
    for weights in (DapeLossConfig(1, 0), DapeLossConfig(0, 1)):
        step = DapeStep(network, adapters, weights, train_mode=False)
        step(images, images.flip(2), seed=1)["loss"].backward()
        grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        assert all("lora_" in name for name in grads)
        reached[weights.logits] = {name for name, grad in grads.items() if grad.abs().max() > 0}
        network.zero_grad(set_to_none=True)
    assert reached[0] and all(name.startswith("swin.") for name in reached[0])
    assert len(reached[1]) == len(adapters.parameters)


def test_dropping_follows_the_seed_alone(images, stirred):
    step = DapeStep(*stirred, DapeLossConfig())
    found = [float(step(images, images, seed=seed)["loss"].detach()) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    step(images, images, seed=5)
    assert torch.equal(torch.rand(1), expected)  # nobody else's numbers are drawn


def test_distances_are_those_of_the_paper(images):
    student, teacher = outputs(mini_network(0), images), outputs(mini_network(1), images)
    found = distances(student, teacher)
    q, p = student[1].double().sigmoid(), teacher[1].double().sigmoid()
    assert abs(found["features"] - (student[0] - teacher[0]).square().mean()) < 1e-6
    assert abs(found["logits"] + (p * q.log() + (1 - p) * (1 - q).log()).mean()) < 1e-6
    assert torch.isfinite(
        distances((student[0], torch.full((1, 3), 200.0)), (student[0], torch.zeros(1, 3)))["logits"]
    )


def test_the_whole_tagger_in_one_file_has_both(images, stirred, tmp_path):
    from osediff_core.dape import write_tagger

    network, adapters = stirred
    tagger = read_tagger(write_mini_tagger(tmp_path / "tagger.safetensors"), dape=False)
    tagger.lora = adapters.pairs()
    write_tagger(tmp_path / "both.safetensors", tagger)
    for dape, expected in ((True, network), (False, mini_network())):
        scores = Tagger.load(tmp_path / "both.safetensors", dape, dtype="fp32", device="cpu").scores(images)
        assert (scores - outputs(expected, images)[1].sigmoid()).abs().max() < 1e-4
