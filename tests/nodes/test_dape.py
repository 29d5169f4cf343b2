"""Load DAPE and DAPE Prompt: the core's tags under ComfyUI's memory management."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from mini_models.taggers import SMALL, lora_tensors, official_tensors
from refusals import refused

from osediff_core.dape import Tagger, TaggerWeights, prompt_of, read_tagger, write_tagger

NONE, RAM_ALONE = "none", "RAM alone"


@pytest.fixture(scope="module")
def files(pack):
    """Files of a small tagger where Load DAPE finds them."""
    folder = pack.output / pack.folders.FOLDER
    folder.mkdir(exist_ok=True)
    names = SimpleNamespace(
        folder=folder, ram="ram.safetensors", dape="DAPE.pth", both="ram_dape.safetensors"
    )
    with torch.inference_mode(False):
        write_tagger(folder / names.ram, TaggerWeights(SMALL, official_tensors()))
        torch.save(lora_tensors(), folder / names.dape)
        write_tagger(folder / names.both, read_tagger(folder / names.ram, folder / names.dape, merge=False))
    return names


@pytest.fixture
def image():
    """IMAGE (2, 40, 56, 3)."""
    return torch.rand(2, 40, 56, 3, generator=torch.Generator().manual_seed(4))


def load(pack, tagger, dape=NONE, dtype="fp32"):
    return pack.prompt.LoadDAPE.execute(tagger, dape, dtype).args[0]


def prompt_node(pack, clip, image, tagger, words="", exclude="", offset=0.0, **more):
    return pack.prompt.DAPEPrompt.execute(
        clip, words, exclude, offset, "", image=image, tagger=tagger, **more
    ).args


def core_tags(files, image, dape, **options):
    tagger = Tagger.load(files.folder / files.ram, files.folder / files.dape if dape else False, device="cpu")
    planes = image.movedim(-1, 1) * 2 - 1
    return [[tag.name for tag in tags] for tags in tagger.tag(planes, **options)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_comfyuis_layers_compute_the_same_bits(pack, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in official_tensors().items()}
    core = TaggerWeights(SMALL, tensors).network()
    native = pack.native_tagger.with_comfy_layers(TaggerWeights(SMALL, tensors).network())
    layers = [m for m in native.modules() if isinstance(m, torch.nn.Linear | torch.nn.LayerNorm)]
    assert len(layers) > 40 and all(layer.comfy_cast_weights for layer in layers)
    pixels = torch.randn(2, 3, 48, 48).to(dtype)
    assert torch.equal(native(pixels), core(pixels))


def test_the_nodes_find_what_the_core_finds(pack, tiny, files, image):
    for tagger, dape, adapted in (
        (files.both, NONE, True),
        (files.both, RAM_ALONE, False),
        (files.ram, files.dape, True),
        (files.ram, NONE, False),
    ):
        found = load(pack, tagger, dape).tag(image, [], 0.0)
        assert found == core_tags(files, image, adapted)
    assert core_tags(files, image, True) != core_tags(files, image, False)
    assert found[0] != found[1] and 3 < len(found[0]) < 500


def test_a_prompt_for_each_picture(pack, tiny, files, image):
    clip = tiny[1]
    tagger = load(pack, files.both)
    conditioning, text = prompt_node(pack, clip, image, tagger, "old photo", offset=0.2)
    expected = core_tags(files, image, True, threshold_offset=0.2)
    prompts = text.split("\n")
    assert conditioning[0][0].shape[:2] == (2, 77)
    for prompt, tags in zip(prompts, expected, strict=True):
        assert prompt.endswith(", old photo")
        used = prompt.removesuffix(", old photo").split(", ")
        assert [pack.prompt.escape(tag) for tag in tags][: len(used)] == used
        assert len(clip.tokenize(prompt)["h"]) == 1
        if len(used) < len(tags):  # one more would not have fitted
            longer = prompt_of([*used, pack.prompt.escape(tags[len(used)])], "old photo")
            assert len(clip.tokenize(longer)["h"]) > 1
    assert torch.equal(conditioning[0][0], pack.prompt.encode_prompts(clip, prompts)[0][0])


def test_excluded_tags_and_official_prompts(pack, tiny, files, image):
    clip, tagger = tiny[1], load(pack, files.both)
    one = image[:1]
    (tags,) = core_tags(files, one, True, threshold_offset=0.3)
    _, text = prompt_node(pack, clip, one, tagger, exclude=f"{tags[0].upper()}, 鲍鱼", offset=0.3)
    assert tags[0] not in text.split(", ")
    _, text = prompt_node(pack, clip, one, tagger, offset=0.3, official=True)
    assert text == ", ".join(pack.prompt.escape(tag) for tag in tags) + ", ,"
    _, text = prompt_node(pack, clip, one, tagger, "old photo", offset=2.0, official=True)
    assert text == ", old photo,"


def test_grey_and_transparent_pictures(pack, files, image):
    tagger = load(pack, files.both)
    alpha = torch.ones(2, 40, 56, 1)
    assert tagger.tag(torch.cat([image, alpha], dim=-1), [], 0.0) == tagger.tag(image, [], 0.0)
    grey = image[..., :1]
    assert tagger.tag(grey, [], 0.0) == tagger.tag(grey.expand(-1, -1, -1, 3), [], 0.0)
    assert len(tagger.tag(image[:, :1, :1], [], 0.0)) == 2
    with pytest.raises(pack.core.errors.ImageError, match="channels"):
        tagger.tag(image[..., :2], [], 0.0)


def test_half_precision_weights_are_cast_layer_by_layer_on_the_cpu(pack, files, image):
    tagger = load(pack, files.ram, dtype="fp16")
    assert tagger.compute == torch.float32
    weights = [p for name, p in tagger.patcher.model.named_parameters() if "table" not in name]
    assert {p.dtype for p in weights} == {torch.float16}
    rounded = {name: tensor.half().float() for name, tensor in official_tensors().items()}
    expected = Tagger(TaggerWeights(SMALL, rounded).network()).tag(image.movedim(-1, 1) * 2 - 1)
    assert tagger.tag(image, [], 0.0) == [[tag.name for tag in tags] for tags in expected]
    assert load(pack, files.ram, dtype="auto").patcher.model.image_proj.weight.dtype == torch.float16


def test_with_too_little_memory_weights_are_streamed(pack, files, image, monkeypatch):
    """Half of the layers stay behind; nothing else does, or the device would see tensors of another."""
    import comfy.model_management
    import comfy.model_patcher

    meta = torch.device("meta")  # stands for a GPU: it computes nothing, but refuses to mix devices
    expected = load(pack, files.ram).tag(image, [], 0.0)
    monkeypatch.setattr(comfy.model_management, "text_encoder_device", lambda: meta)
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    tagger = load(pack, files.ram)
    patcher = tagger.patcher
    patcher.load(meta, lowvram_model_memory=patcher.model_size() // 2)
    layers = [m for m in patcher.model.modules() if hasattr(m, "comfy_cast_weights")]
    assert 5 < sum(layer.weight.is_meta for layer in layers) < len(layers) - 5
    resident = pack.native_tagger._Resident(patcher, torch.float32)
    assert resident.module(torch.zeros(2, 3, 48, 48, device=meta)).shape == (2, 600)

    monkeypatch.undo()
    tagger = load(pack, files.ram)
    tagger.patcher.load(torch.device("cpu"), lowvram_model_memory=tagger.patcher.model_size() // 2)
    assert tagger.patcher.model.model_lowvram
    assert tagger.tag(image, [], 0.0) == expected


def test_comfyui_can_take_the_memory_back(pack, files, image):
    import comfy.model_management

    tagger = load(pack, files.both)
    expected = tagger.tag(image, [], 0.0)
    loaded = comfy.model_management.current_loaded_models
    assert any(entry.model is tagger.patcher for entry in loaded)
    comfy.model_management.unload_all_models()
    assert not any(entry.model is tagger.patcher for entry in loaded)
    assert tagger.tag(image, [], 0.0) == expected
    network = weakref.ref(tagger.patcher.model)
    del tagger
    gc.collect()
    assert network() is None
    comfy.model_management.cleanup_models()
    assert not any(entry.model is None for entry in loaded)


def test_it_can_be_interrupted_between_two_layers(pack, files, image):
    import comfy.model_management

    tagger = load(pack, files.both)
    seen = []
    blocks = [m for m in tagger.patcher.model.modules() if type(m).__name__ == "SwinLayer"]
    for block in blocks:
        block.register_forward_hook(lambda *_: seen.append(1))
    blocks[0].register_forward_hook(lambda *_: comfy.model_management.interrupt_current_processing())
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tagger.tag(image, [], 0.0)
    assert len(seen) == 1


def test_overflow_in_half_precision_is_computed_again(pack, image, caplog, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *_: None)
    with torch.inference_mode(False):
        tensors = official_tensors()
        for name in ("visual_encoder.norm.weight", "image_proj.weight"):
            tensors[name] *= 1e4
        write_tagger(pack.output / "osediff" / "large.safetensors", TaggerWeights(SMALL, tensors))
    tagger = load(pack, "large.safetensors", dtype="fp16")
    assert tagger.compute == torch.float16
    with caplog.at_level("WARNING"):
        tagger.tag(image, [], 0.0)
    assert "running it again in fp32" in caplog.text


def test_wrong_choices_are_explained(pack, files):
    errors = pack.core.errors
    for tagger, dape, error, said in (
        ("gone.pth", NONE, errors.CheckpointError, r"There is no file gone\.pth .*ram_swin_large_14m"),
        (files.ram, "gone.pth", errors.CheckpointError, r"There is no file gone\.pth"),
        (files.dape, NONE, errors.CheckpointError, "DAPE, .* not a tagger; give RAM's weights"),
        (files.ram, files.both, errors.CheckpointError, "is a tagger, not DAPE"),
        (pack.prompt.EMBEDDED_TAGGER, files.dape, errors.OptionError, "takes no DAPE"),
    ):
        with refused(error, match=said):
            load(pack, tagger, dape)


def test_a_replaced_file_is_read_again(pack, files):
    node = pack.prompt.LoadDAPE
    before = node.fingerprint_inputs(files.both, NONE, dtype="auto")
    assert before == node.fingerprint_inputs(files.both, NONE, dtype="fp32")
    (files.folder / "copy.safetensors").write_bytes((files.folder / files.both).read_bytes())
    first = node.fingerprint_inputs("copy.safetensors", NONE)
    (files.folder / "copy.safetensors").write_bytes(b"another")
    assert node.fingerprint_inputs("copy.safetensors", NONE) != first
