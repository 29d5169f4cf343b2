"""What people who drive the server see: progress, previews, interruption, memory, messages about wrong inputs."""

import asyncio
import copy
import io
import json
import struct
import time
from threading import Event, Thread

import numpy as np
import pytest
import torch
from headless import ComfyError, images
from headless.client import ComfyInterrupted
from PIL import Image
from safetensors.torch import load_file, save_file
from server_graphs import ROOT, by_class, load_png, with_photo

API = ROOT / "example_workflows" / "api"


def many_tiles(graph):
    """The graph with a hundred and more small tiles to denoise: a second or two of work."""
    by_class(graph, "OSEDiff_Denoise").update(tile=16, overlap=14)
    return graph


def test_progress_counts_tiles(client, restore_photo, photo):
    graph = many_tiles(with_photo(restore_photo, client.upload(photo)))
    seen = []
    client.wait(client.queue(graph), on_progress=lambda *event: seen.append(event))
    steps = [(done, total) for title, done, total in seen if title == "One-Step Denoise"]
    # 192 x 128 px are 48 x 32 latents; tiles of 16 every 2: 17 x 9
    assert steps and {total for _, total in steps if total > 1} == {153}
    assert sorted(steps) == steps and len(steps) > 5


def test_a_batch_goes_frame_by_frame(client, restore_photo, photo):
    graph = with_photo(restore_photo, client.upload(photo))
    graph["batch"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": 3}}
    for name in ("OSEDiff_EncodeLQ", "OSEDiff_DAPEPrompt"):
        by_class(graph, name)["image"] = ["batch", 0]
    seen = []
    entry = client.wait(client.queue(graph), on_progress=lambda *event: seen.append(event))
    pictures = [load_png(client.fetch(image)) for image in images(entry)]
    assert len(pictures) == 3 and all(np.array_equal(pictures[0], other) for other in pictures)
    for title in ("Encode LQ", "One-Step Denoise", "Tiled Decode"):
        bar = [(done, total) for name, done, total in seen if name == title and total != 1]
        assert {total for _, total in bar} == {3} and sorted(bar) == bar, f"{title}: {seen}"


def test_an_interrupted_run_and_then_a_good_one(client, restore_photo, photo):
    """Stopped between two tiles, at once; nothing of it is left in the way of the next run."""
    name = client.upload(photo)
    long = many_tiles(with_photo(copy.deepcopy(restore_photo), name))
    by_class(long, "OSEDiff_EncodeLQ").update(scale=8.0)
    by_class(long, "OSEDiff_Denoise").update(tile=16, overlap=15)
    prompt_id, times = client.queue(long), {}

    def stop(title, done, total):
        if title == "One-Step Denoise" and done >= 3 and "stop" not in times:
            times["stop"] = time.monotonic()
            client.interrupt(prompt_id)

    with pytest.raises(ComfyInterrupted):
        client.wait(prompt_id, on_progress=stop, timeout=120)
    assert time.monotonic() - times["stop"] < 5
    entry = client.wait(client.queue(with_photo(restore_photo, name)))
    assert load_png(client.fetch(images(entry)[0])).shape == (128, 192, 3)


def test_previews_of_the_denoised_latent(server, client, restore_photo, photo):
    """A client that asks for previews gets small pictures that look like the result."""
    graph = with_photo(restore_photo, client.upload(photo))
    by_class(graph, "OSEDiff_EncodeLQ")["scale"] = 3.0
    received, ready = [], Event()

    async def listen():
        import aiohttp

        address = f"{server.url}/ws?clientId=previews"
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
            await socket.send_str(json.dumps(flags))
            ready.set()
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    received.append(message.data)
                elif json.loads(message.data)["type"] in ("execution_success", "execution_error"):
                    return

    listener = Thread(target=lambda: asyncio.run(listen()), daemon=True)
    listener.start()
    assert ready.wait(60)
    body = {"prompt": graph, "client_id": "previews", "extra_data": {"preview_method": "latent2rgb"}}
    prompt_id = client.call("/prompt", body)["prompt_id"]
    entry = client.wait(prompt_id)
    listener.join(120)
    previews = [_preview(data) for data in received]
    assert previews, "no preview came"
    result = Image.open(io.BytesIO(client.fetch(images(entry)[0])))
    small = np.asarray(result.resize(previews[-1].size, Image.Resampling.BOX), dtype=np.float32)
    shown = np.asarray(previews[-1].convert("RGB"), dtype=np.float32)
    assert abs(previews[-1].width / previews[-1].height - 1.5) < 0.02
    assert np.corrcoef(small.ravel(), shown.ravel())[0, 1] > 0.95


def _preview(data):
    """The picture of a binary message: of type 1 with its format, or of type 4 with metadata."""
    (kind,) = struct.unpack(">I", data[:4])
    if kind == 4:
        (length,) = struct.unpack(">I", data[4:8])
        return Image.open(io.BytesIO(data[8 + length :]))
    assert kind == 1
    return Image.open(io.BytesIO(data[8:]))


def test_free_gives_up_results_and_models(server, client, restore_photo, photo):
    graph = with_photo(restore_photo, client.upload(photo))
    first = client.wait(client.queue(copy.deepcopy(graph)))
    client.free()
    # the server may take up the first one before it frees anything
    runs = [client.wait(client.queue(copy.deepcopy(graph))) for _ in range(2)]
    computed = [not dict(run["status"]["messages"])["execution_cached"]["nodes"] for run in runs]
    assert any(computed)
    again = runs[computed.index(True)]
    pictures = [load_png(client.fetch(images(entry)[0])) for entry in (first, again)]
    assert np.array_equal(*pictures)


def test_a_replaced_weights_file_is_read_again(server, client, restore_photo, photo):
    folder = server.base / "models" / "osediff"
    folder.mkdir(parents=True, exist_ok=True)
    source = ROOT / "osediff_core" / "tiny" / "osediff.safetensors"
    tensors, metadata = load_file(source), _metadata(source)
    save_file(tensors, folder / "mine.safetensors", metadata)
    graph = with_photo(restore_photo, client.upload(photo))
    by_class(graph, "OSEDiff_Load")["weights"] = "mine.safetensors"
    by_class(graph, "OSEDiff_Decode")["color_fix"] = "none"
    first = client.wait(client.queue(copy.deepcopy(graph)))
    for name in tensors:
        if name.endswith("lora_B.weight"):
            tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, folder / "mine.safetensors", metadata)
    second = client.wait(client.queue(graph))
    assert dict(second["status"]["messages"])["execution_cached"]["nodes"]  # the photo at least
    pictures = [load_png(client.fetch(images(entry)[0])) for entry in (first, second)]
    assert not np.array_equal(*pictures)


def _metadata(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize(
    ("node", "change", "words"),
    [
        ("OSEDiff_Load", {"weights": "none"}, "This MODEL has no OSEDiff weights"),
        ("OSEDiff_Denoise", {"tile": 32, "overlap": 40}, "overlap of 40 latents"),
        ("OSEDiff_Denoise", {"cfg": 3.0}, "needs a negative conditioning"),
        ("OSEDiff_LoadDAPE", {"tagger": "mine.safetensors"}, r"mine\.safetensors is "),
    ],
)
def test_errors_while_running_are_one_sentence(server, client, restore_photo, photo, node, change, words):
    (server.base / "models" / "osediff").mkdir(parents=True, exist_ok=True)
    (server.base / "models" / "osediff" / "mine.safetensors").touch()
    graph = with_photo(restore_photo, client.upload(photo))
    by_class(graph, node).update(change)
    with pytest.raises(ComfyError, match=words):
        client.wait(client.queue(graph))


def test_a_failing_run_names_the_error_without_a_path(client, restore_photo, photo):
    graph = with_photo(restore_photo, client.upload(photo))
    by_class(graph, "OSEDiff_Load").update(weights="none")
    prompt_id = client.queue(graph)
    with pytest.raises(ComfyError):
        client.wait(prompt_id)
    error = dict(client.call(f"/history/{prompt_id}")[prompt_id]["status"]["messages"])["execution_error"]
    assert error["exception_type"] == "osediff_core.errors.OptionError"


def test_a_warning_is_in_the_history_and_in_the_log(server, client, restore_photo, photo):
    graph = with_photo(restore_photo, client.upload(photo))
    (step,) = (key for key, node in graph.items() if node["class_type"] == "OSEDiff_Denoise")
    latent = graph[step]["inputs"]["latent"]
    graph["turn"] = {
        "class_type": "LatentFlip",
        "inputs": {"samples": latent, "flip_method": "x-axis: vertically"},
    }
    graph[step]["inputs"]["latent"] = ["turn", 0]
    entry = client.wait(client.queue(graph))
    (said,) = entry["outputs"][step]["text"]
    assert said.startswith("Another node changed") and said in server.log()


def test_the_folder_for_weights_is_there_from_the_start(server):
    assert (server.base / "models" / "osediff").is_dir()


@pytest.mark.parametrize(
    ("node", "change", "words"),
    [
        ("OSEDiff_Load", {"weights": "nowhere.pkl"}, "not in list"),
        ("OSEDiff_Load", {"base": "nowhere.safetensors"}, "not in list"),
        ("OSEDiff_Load", {"dtype": "int4"}, "not in list"),
        ("OSEDiff_EncodeLQ", {"scale": 1000.0}, "bigger than max"),
        ("OSEDiff_EncodeLQ", {"scale": "big"}, "convert"),
        ("OSEDiff_Denoise", {"tile": -8}, "smaller than min"),
        ("OSEDiff_Decode", {"color_fix": "sepia"}, "not in list"),
        ("OSEDiff_Decode", {"latent": ["1", 0]}, "mismatch"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_runs(client, restore_photo, photo, node, change, words):
    graph = with_photo(restore_photo, client.upload(photo))
    by_class(graph, node).update(change)
    with pytest.raises(ComfyError, match=f"(?i){words}"):
        client.queue(graph)


def test_files_that_are_no_weights(server, client, restore_photo, photo):
    folder = server.base / "models" / "osediff"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "page.pkl").write_text("<html>404</html>")
    (folder / "empty.safetensors").touch()
    graph = with_photo(restore_photo, client.upload(photo))
    for name, words in (("page.pkl", "web page"), ("empty.safetensors", "empty")):
        by_class(graph, "OSEDiff_Load")["weights"] = name
        with pytest.raises(ComfyError, match=words):
            client.wait(client.queue(copy.deepcopy(graph)))


def test_save_osediff_and_use_what_was_saved(server, client, restore_photo, photo):
    """What was written can be chosen at once, and the picture stays the same."""
    graph = with_photo(restore_photo, client.upload(photo))
    expected = load_png(client.fetch(images(client.wait(client.queue(copy.deepcopy(graph))))[0]))
    inputs = {"weights": "tiny (embedded)", "filename_prefix": "osediff/copy", "dtype": "fp32"}
    save = {"1": {"class_type": "OSEDiff_Save", "inputs": {**inputs, "format": "safetensors"}}}
    for number in (1, 2):
        save["1"]["inputs"]["dtype"] = ("fp32", "as stored")[number - 1]
        (path,) = client.wait(client.queue(copy.deepcopy(save)))["outputs"]["1"]["text"]
        name = path.replace("\\", "/").rpartition("/")[2]
        assert name == f"copy_{number:05}.safetensors"
        assert (server.base / "output" / "osediff" / name).is_file()
        by_class(graph, "OSEDiff_Load")["weights"] = name
        again = load_png(client.fetch(images(client.wait(client.queue(copy.deepcopy(graph))))[0]))
        assert np.array_equal(again, expected)
    save["1"]["inputs"]["format"] = "pkl"
    with pytest.raises(ComfyError, match=r"timestep \d+"):
        client.wait(client.queue(save))


def test_the_box_keeps_a_connected_model(client, photo):
    graph = with_photo(json.loads((API / "one_box.json").read_text()), client.upload(photo))
    box = by_class(graph, "OSEDiff_Upscale")
    inputs = {"base": "tiny (embedded)", "weights": "tiny (embedded)", "dtype": "auto"}
    graph["load"] = {
        "class_type": "OSEDiff_Load",
        "inputs": {**inputs, "unet_strength": 1.0, "vae_strength": 1.0},
    }
    alone = load_png(client.fetch(images(client.wait(client.queue(copy.deepcopy(graph))))[0]))
    box.update(model=["load", 0], clip=["load", 1], vae=["load", 2])
    connected = load_png(client.fetch(images(client.wait(client.queue(copy.deepcopy(graph))))[0]))
    assert np.array_equal(alone, connected)
    del box["clip"]
    with pytest.raises(ComfyError, match="all three or none"):
        client.wait(client.queue(graph))


def test_prompt_override_does_not_load_the_tagger(client, restore_photo, photo):
    graph = with_photo(restore_photo, client.upload(photo))
    by_class(graph, "OSEDiff_DAPEPrompt")["prompt_override"] = "a barn"
    seen = []
    client.wait(client.queue(graph), on_progress=lambda title, *_: seen.append(title))
    assert "DAPE Prompt" in seen and "Load DAPE" not in seen


@pytest.mark.parametrize("connected", [(), ("image",), ("tagger",)])
def test_prompt_without_picture_or_tagger(client, restore_photo, photo, connected):
    """Your words alone."""
    graph = with_photo(restore_photo, client.upload(photo))
    prompt = by_class(graph, "OSEDiff_DAPEPrompt")
    for name in {"image", "tagger"} - set(connected):
        del prompt[name]
    entry = client.wait(client.queue(graph))
    assert load_png(client.fetch(images(entry)[0])).shape == (128, 192, 3)


def test_custom_sampling(client, restore_photo, photo):
    """OSEDiff Sampler with ComfyUI's SamplerCustomAdvanced gives the picture of One-Step Denoise."""
    graph = with_photo(restore_photo, client.upload(photo))
    expected = load_png(client.fetch(images(client.wait(client.queue(copy.deepcopy(graph))))[0]))
    step = by_class(graph, "OSEDiff_Denoise")
    graph |= {
        "sampler": {
            "class_type": "OSEDiff_Sampler",
            "inputs": {"model": step["model"], "tile": 96, "overlap": 32, "strength": 1.0},
        },
        "noise": {"class_type": "RandomNoise", "inputs": {"noise_seed": 3}},
        "guider": {
            "class_type": "BasicGuider",
            "inputs": {"model": step["model"], "conditioning": step["positive"]},
        },
        "advanced": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["noise", 0],
                "guider": ["guider", 0],
                "sampler": ["sampler", 0],
                "sigmas": ["sampler", 1],
                "latent_image": step["latent"],
            },
        },
    }
    for slot in (0, 1):  # output and denoised output are the same after one step
        by_class(graph, "OSEDiff_Decode")["latent"] = ["advanced", slot]
        found = load_png(client.fetch(images(client.wait(client.queue(copy.deepcopy(graph))))[0]))
        assert np.array_equal(found, expected)
