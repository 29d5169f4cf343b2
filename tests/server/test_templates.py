"""Templates whose models do not come with the pack: which files they want, and a run with small ones. The video."""

import io
import json
import urllib.error
import urllib.request

import av
import pytest
import torch
from headless import ComfyError
from mini_models.methods import pisa_content
from mini_models.taggers import SMALL, official_tensors
from mini_models.upscalers import esrgan_tensors
from PIL import Image
from safetensors.torch import save_file
from server_graphs import ROOT, by_class, load_png, with_photo

from osediff_core.dape import TaggerWeights, write_tagger

API = ROOT / "example_workflows" / "api"
TINY = "tiny (embedded)"
GAN = "RealESRGAN_x4plus.safetensors"
WANTED = {
    "sd21_official": ("v2-1_512-ema-pruned", "osediff.pkl", "ram_swin_large_14m.pth", "DAPE.pth"),
    "style_lora": ("v2-1_512-ema-pruned", "osediff.pkl", "style_for_sd21"),
    "two_methods": ("v2-1_512-ema-pruned", "osediff.pkl", "pisa_sr.pkl"),
    "methods_and_gan": ("v2-1_512-ema-pruned", "osediff.pkl", "pisa_sr.pkl", GAN),
    "two_stages": (GAN,),
}


def workflow(name):
    return json.loads((API / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def models(server):
    """Small ones of the real kinds, in the folders where the real ones belong, under names of their own."""
    from diffusers import UNet2DConditionModel

    folder = server.base / "models"
    unet = UNet2DConditionModel.from_pretrained(ROOT / "osediff_core" / "tiny" / "unet")
    files = {
        "upscale_models": "small_gan.safetensors",
        "loras": "small_style.safetensors",
        "osediff": "small_pisa.pkl",
        "tagger": "small_ram.safetensors",
    }
    for kind in ("upscale_models", "loras", "osediff"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    save_file(esrgan_tensors(), folder / "upscale_models" / files["upscale_models"])
    torch.save(pisa_content(unet), folder / "osediff" / files["osediff"])
    name = next(n for n, m in unet.named_modules() if n.endswith("attn1.to_q"))
    width = unet.get_submodule(name).weight.shape[1]
    key = "lora_unet_" + name.replace(".", "_")
    factors = {
        f"{key}.lora_down.weight": torch.randn(4, width),
        f"{key}.lora_up.weight": torch.randn(width, 4),
    }
    save_file(factors, folder / "loras" / files["loras"])
    write_tagger(folder / "osediff" / files["tagger"], TaggerWeights(SMALL, official_tensors(SMALL)), "fp32")
    return files


def with_small(graph, files, photo):
    """The graph itself with the small models in place of the real ones."""
    swaps = {
        "v2-1_512-ema-pruned.safetensors": TINY,
        "osediff.pkl": TINY,
        "pisa_sr.pkl": files["osediff"],
        "ram_swin_large_14m.pth": files["tagger"],
        "DAPE.pth": "none",
        "style_for_sd21.safetensors": files["loras"],
        GAN: files["upscale_models"],
    }
    for node in graph.values():
        node["inputs"] = {
            name: swaps.get(value, value) if isinstance(value, str) else value
            for name, value in node["inputs"].items()
        }
    return with_photo(graph, photo)


@pytest.mark.parametrize("name", WANTED)
def test_a_template_says_which_files_it_wants(client, server, photo, name):
    """In its note, and in ComfyUI's refusal; nothing else is wrong with it."""
    graph = with_photo(workflow(name), client.upload(photo))
    answer = refusal(server, graph)
    wrong = [error for node in answer["node_errors"].values() for error in node["errors"]]
    assert {error["type"] for error in wrong} == {"value_not_in_list"}
    refused = {error["extra_info"]["received_value"] for error in wrong}
    assert len(refused) == len(WANTED[name])
    for file in WANTED[name]:
        assert any(value.startswith(file) for value in refused), (file, refused)


def refusal(server, graph):
    """ComfyUI's answer to a graph that it does not take."""
    body = json.dumps({"prompt": graph}).encode()
    request = urllib.request.Request(server.url + "/prompt", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    return json.loads(caught.value.read())


@pytest.mark.parametrize("name", WANTED)
def test_a_template_runs_with_small_models(client, models, photo, name):
    graph = with_small(workflow(name), models, client.upload(photo))
    entry = client.wait(client.queue(graph))
    saved = {
        node: load_png(client.fetch(output["images"][0]))
        for node, output in entry["outputs"].items()
        if output.get("images")
    }
    wide = {"two_methods": 2 * 192 + 8, "methods_and_gan": 3 * 192 + 16}
    assert max(picture.shape[1] for picture in saved.values()) == wide.get(name, 192)
    assert all(picture.shape[0] == 128 and picture.std() > 1 for picture in saved.values())


def test_the_style_is_seen(client, models, photo):
    graph = with_small(workflow("style_lora"), models, client.upload(photo))
    made = []
    for strength in (0.0, 1.0):
        by_class(graph, "LoraLoader")["strength_model"] = strength
        (output,) = client.wait(client.queue(graph))["outputs"].values()
        made.append(load_png(client.fetch(output["images"][0])).astype(float))
    assert abs(made[0] - made[1]).mean() > 0.5


def test_the_examples_come_when_the_page_asks_for_them(client, server):
    name = "osediff_clip.mp4"
    (server.base / "input" / name).unlink(missing_ok=True)
    assert client.call(f"/osediff/examples/{name}", {}) == {"added": True}
    written = (server.base / "input" / name).read_bytes()
    assert written == (ROOT / "examples" / "clips" / "two_scenes.mp4").read_bytes()
    (server.base / "input" / name).write_bytes(b"mine")
    assert client.call(f"/osediff/examples/{name}", {}) == {"added": False}
    assert (server.base / "input" / name).read_bytes() == b"mine"
    (server.base / "input" / name).unlink()
    for strange in ("other.png", "..%2F..%2Fserver.py"):
        with pytest.raises(ComfyError, match="404"):
            client.call(f"/osediff/examples/{strange}", {})


def test_the_video_with_its_sound(client, server):
    client.call("/osediff/examples/osediff_clip.mp4", {})
    graph = workflow("video")
    by_class(graph, "OSEDiff_Video")["scale"] = 0.5
    entry = client.wait(client.queue(graph))
    (output,) = (o for o in entry["outputs"].values() if o.get("images"))
    film = client.fetch(output["images"][0])
    with av.open(io.BytesIO(film)) as container:
        assert [round(frame.time * 12) for frame in container.decode(video=0)] == list(range(24))
        assert (container.streams.video[0].width, container.streams.video[0].height) == (80, 60)
    with av.open(io.BytesIO(film)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == pytest.approx(88200, rel=0.03)


def test_the_box_keeps_its_models_from_one_picture_to_the_next(client, server, tmp_path):
    def run(shade):
        Image.new("RGB", (16, 16), (shade, 90, 90)).save(tmp_path / f"{shade}.png")
        graph = with_photo(workflow("one_box"), client.upload(tmp_path / f"{shade}.png"))
        before = len(server.log())
        client.wait(client.queue(graph))
        return "VAE load device" in server.log()[before:]

    run(10)  # loaded now, unless another test had them
    assert not run(20) and not run(30)
