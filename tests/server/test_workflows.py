"""Every workflow that the pack ships runs in a real ComfyUI and gives what the command gives for the same picture."""

import copy
import json
import re
import shutil

import numpy as np
import pytest
import torch
from headless import ComfyError, images
from PIL import Image
from server_graphs import ROOT, by_class, load_png, with_photo

from osediff_core import OneStepGenerator, Picture, RestoreOptions, read_image, restore_picture
from osediff_core.cli.main import main as osediff
from osediff_core.dape import prompt_of
from osediff_core.dape.choice import open_tagger
from osediff_core.degrade import degrade
from osediff_core.evaluate import evaluate, pair_up, parse_metrics
from osediff_core.geometry import resize_clipped
from osediff_core.tiles.unet import UNetTiling

API = ROOT / "example_workflows" / "api"
NAMES = sorted(path.stem for path in API.glob("*.json"))
TAGGED = ("--dape", "tiny")  # most workflows have the embedded tagger


def workflow(name):
    return json.loads((API / f"{name}.json").read_text())


def psnr(a, b):
    assert a.shape == b.shape, f"{a.shape} and {b.shape}"
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


def run(client, graph):
    """The pictures of the graph's Save nodes, by the id of the node."""
    return pictures(client, client.wait(client.queue(graph)))


def words(entry):
    """What the graph's nodes show as text."""
    return [text for output in entry["outputs"].values() for text in output.get("text", [])]


def pictures(client, entry):
    return {
        node: [load_png(client.fetch(image)) for image in output["images"]]
        for node, output in entry["outputs"].items()
        if output.get("images") and output["images"][0]["type"] == "output"
    }


def command(photo, folder, *options):
    """What `osediff upscale` makes of the photo with these options."""
    output = folder / "command.png"
    assert osediff(["upscale", str(photo), "-o", str(output), "--dtype", "fp32", *options]) == 0
    return np.asarray(Image.open(output))


def only(pictures):
    (((picture,),),) = (pictures.values(),)
    return picture


def test_the_shipped_ones_are_tested_here():
    assert set(NAMES) == {
        "degrade_restore_compare",
        "folder",
        "one_box",
        "restore_4k_tiles",
        "restore_photo",
        "stock_nodes",
        "text_to_image",
        # in test_templates.py
        "methods_and_gan",
        "sd21_official",
        "style_lora",
        "two_methods",
        "two_stages",
        "video",
    }


@pytest.mark.parametrize("name", ["restore_photo", "one_box"])
def test_restored_photo(client, photo, tmp_path, name):
    graph = with_photo(workflow(name), client.upload(photo))
    assert psnr(only(run(client, graph)), command(photo, tmp_path, *TAGGED)) >= 50


def test_the_fidelity_of_the_box_is_that_of_the_command(client, photo, tmp_path):
    graph = with_photo(workflow("one_box"), client.upload(photo))
    by_class(graph, "OSEDiff_Upscale")["fidelity"] = 0.6
    expected = command(photo, tmp_path, *TAGGED, "--fidelity", "0.6")
    found = only(run(client, graph))
    assert psnr(found, expected) >= 50 > psnr(found, command(photo, tmp_path, *TAGGED))


def test_tiles(client, photo, tmp_path):
    """As shipped, but 408 pixels wide: larger than a tile of the step; the VAE's tiles of 512 do not come into it."""
    graph = with_photo(workflow("restore_4k_tiles"), client.upload(photo))
    by_class(graph, "OSEDiff_EncodeLQ")["width"] = 408
    expected = command(photo, tmp_path, *TAGGED, "--size", "408x272")
    assert psnr(only(run(client, graph)), expected) >= 50


def test_stock_nodes(client, photo, tmp_path):
    """ComfyUI's own resizing differs from ours, so the picture comes enlarged already."""
    with Image.open(photo) as small:
        small.resize((192, 128), Image.Resampling.BICUBIC).save(tmp_path / "large.png")
    graph = with_photo(workflow("stock_nodes"), client.upload(tmp_path / "large.png"))
    by_class(graph, "ImageScaleBy")["scale_by"] = 1.0
    expected = command(tmp_path / "large.png", tmp_path, "--scale", "1")
    assert psnr(only(run(client, graph)), expected) >= 50


def test_degrade_restore_compare(client, tmp_path):
    with Image.open(ROOT / "examples" / "photos" / "parrots.png") as hq:
        hq.crop((0, 0, 128, 96)).save(tmp_path / "hq.png")
    graph = with_photo(workflow("degrade_restore_compare"), client.upload(tmp_path / "hq.png"))
    entry = client.wait(client.queue(graph))
    restored, compared = pictures(client, entry).values()

    hq = torch.from_numpy(read_image(tmp_path / "hq.png").rgb).permute(2, 0, 1)[None]
    settings = by_class(graph, "OSEDiff_Degrade")
    lq, _ = degrade(hq, settings["preset"], settings["scale"], settings["seed"])
    picture = Picture(lq[0].permute(1, 2, 0).numpy())
    generator = OneStepGenerator.load("tiny", dtype="fp32", device="cpu")
    (tags,) = open_tagger("tiny", dtype="fp32", device="cpu").tag(resize_clipped(lq, hq.shape[-2:]) * 2 - 1)
    expected = restore_picture(generator, picture, RestoreOptions(prompt=prompt_of(tags)))
    assert psnr(restored[0], expected.samples()) >= 50
    assert compared[0].shape == (96, 3 * 128 + 2 * 8, 3)
    assert psnr(compared[0][:, 128 + 8 : 256 + 8], restored[0]) > 45  # in the middle of the sheet
    Image.fromarray(restored[0]).save(tmp_path / "restored.png")
    pairs = pair_up(tmp_path / "restored.png", tmp_path / "hq.png").pairs
    (found,) = evaluate(pairs, parse_metrics("psnr ssim")).cases
    shown = dict(re.findall(r"(\w+) ↑ ([\d.]+)", *words(entry)))
    # Save Image cuts levels down, Evaluate rounds them
    assert float(shown["PSNR"]) == pytest.approx(found.result["psnr"], abs=0.05)
    assert float(shown["SSIM"]) == pytest.approx(found.result["ssim"], abs=2e-3)


def test_degrade_restore_compare_with_a_size_that_four_does_not_divide(client, tmp_path):
    with Image.open(ROOT / "examples" / "photos" / "parrots.png") as hq:
        hq.crop((0, 0, 61, 46)).save(tmp_path / "hq.png")
    graph = with_photo(workflow("degrade_restore_compare"), client.upload(tmp_path / "hq.png"))
    entry = client.wait(client.queue(graph))
    assert pictures(client, entry).popitem()[1][0].shape[0] == 46 and words(entry)[0].startswith("PSNR")


def test_folder(client, server, tmp_path):
    """Pictures of different sizes, one after the other."""
    folder = server.base / "input" / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    photos = ROOT / "examples" / "photos"
    for name, box in (("barn.png", (0, 0, 40, 24)), ("plane.png", (30, 30, 51, 61))):
        with Image.open(photos / name) as whole:
            whole.crop(box).save(folder / name)
    graph = workflow("folder")
    by_class(graph, "OSEDiff_LoadPictures")["folder"] = "photos"
    try:
        (restored,) = run(client, graph).values()
        restored = {picture.shape[:2]: picture for picture in restored}
        for photo in folder.iterdir():
            expected = command(photo, tmp_path, *TAGGED)
            assert psnr(restored.pop(expected.shape[:2]), expected) >= 50
        assert not restored
    finally:
        shutil.rmtree(folder)


def test_the_folder_of_examples_is_there_in_a_fresh_comfyui(client):
    graph = workflow("folder")
    by_class(graph, "OSEDiff_EncodeLQ")["scale"] = 0.25
    (restored,) = run(client, graph).values()
    assert len(restored) == len(list((ROOT / "examples" / "photos").glob("*.png")))


@pytest.mark.parametrize(
    ("size", "got"),
    [
        ({"longest_side": 96}, (64, 96)),
        ({"shortest_side": 96}, (96, 144)),
        ({"width": 60, "height": 30}, (30, 60)),
    ],
)
def test_the_size_of_the_box(client, photo, size, got):
    graph = with_photo(workflow("one_box"), client.upload(photo))
    by_class(graph, "OSEDiff_Upscale").update(size)
    assert only(run(client, graph)).shape[:2] == got
    by_class(graph, "OSEDiff_Upscale").update(width=60, longest_side=96)
    with pytest.raises(ComfyError, match="set the others to 0"):
        client.wait(client.queue(graph))


def test_text_to_image(client, server):
    """KSampler's own latents go through the step: compared with the core's step on those latents."""
    graph = workflow("text_to_image")
    by_class(graph, "EmptyLatentImage").update(width=208, height=208)
    by_class(graph, "OSEDiff_Denoise").update(tile=40, overlap=16)  # more than one tile of the step
    by_class(graph, "KSampler")["steps"] = 3
    latents = next(key for key, node in graph.items() if node["class_type"] == "KSampler")
    graph["raw"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": [latents, 0], "filename_prefix": "raw"},
    }
    entry = client.wait(client.queue(graph))
    (picture,) = (load_png(client.fetch(image)) for image in images(entry))
    (saved,) = entry["outputs"]["raw"]["latents"]
    from safetensors.torch import load_file

    raw = load_file(server.base / "output" / saved["subfolder"] / saved["filename"])["latent_tensor"]
    assert raw.shape == (1, 8, 52, 52) and raw.std() > 0.1
    generator = OneStepGenerator.load("tiny", dtype="fp32", device="cpu")
    with torch.no_grad():
        embeds = generator.encode_prompt([graph["2"]["inputs"]["text"]])
        restored = generator.denoise(raw * generator.vae.scaling_factor, embeds, tiling=UNetTiling(40, 16))
        expected = (generator.decode(restored) + 1) / 2
    assert psnr(picture, (expected[0].permute(1, 2, 0) * 255).floor().numpy()) >= 50
    # strength 0 is the base model: another picture than with OSEDiff in the sampler
    assert picture.std() > 5


def test_a_second_run_computes_nothing(client, photo):
    graph = with_photo(workflow("restore_photo"), client.upload(photo))
    first, again = (client.wait(client.queue(copy.deepcopy(graph))) for _ in range(2))
    cached = dict(again["status"]["messages"])["execution_cached"]["nodes"]
    assert set(cached) == set(graph)
    assert images(first) == images(again)


def test_the_options_of_the_command_have_their_inputs(client, photo, tmp_path):
    """Seeded posterior, wavelet, smaller tiles, another size: the nodes mean the same by them as the command."""
    graph = with_photo(workflow("restore_photo"), client.upload(photo))
    by_class(graph, "OSEDiff_EncodeLQ").update(width=201, height=150, posterior="sample", seed=5)
    by_class(graph, "OSEDiff_Denoise").update(tile=24, overlap=8)
    by_class(graph, "OSEDiff_Decode").update(color_fix="wavelet", color_weight=0.5)
    by_class(graph, "OSEDiff_DAPEPrompt").update(extra_prompt="a red barn, grass")
    by_class(graph, "OSEDiff_Load").update(unet_strength=0.9, vae_strength=0.8)
    options = "--size 201x150 --sample-posterior --seed 5 --tile 24 --overlap 8 --color-fix wavelet --color-weight 0.5"
    expected = command(
        photo, tmp_path, *TAGGED, *options.split(), "--prompt", "a red barn, grass", "--strength", "0.9,0.8"
    )
    assert psnr(only(run(client, graph)), expected) >= 50
    plain = command(photo, tmp_path, *TAGGED, "--size", "201x150")
    assert psnr(expected, plain) < 45, "the options change nothing"


def test_options_of_the_core_are_the_nodes_defaults(client):
    defaults = RestoreOptions()
    encode = client.object_info("OSEDiff_EncodeLQ")["OSEDiff_EncodeLQ"]["input"]["required"]
    denoise = client.object_info("OSEDiff_Denoise")["OSEDiff_Denoise"]["input"]["required"]
    decode = client.object_info("OSEDiff_Decode")["OSEDiff_Decode"]["input"]["required"]
    assert encode["scale"][1]["default"] == defaults.scale
    assert denoise["tile"][1]["default"] == defaults.tile
    assert denoise["overlap"][1]["default"] == defaults.tile // 3
    assert decode["color_fix"][1]["default"] == defaults.color_fix
    assert decode["color_weight"][1]["default"] == defaults.color_weight
