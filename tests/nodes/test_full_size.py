"""Stable Diffusion 2.1's own sizes with random weights, from a single-file checkpoint through Load OSEDiff."""

import gc

import pytest
import torch
from node_graph import denoise, distance, encode, planes, prompt

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file like v2-1_512-ema-pruned.safetensors (fp16, 2.6 GB) and one like osediff.pkl, both random."""
    from mini_models.checkpoints import official_content
    from mini_models.networks import empty_networks
    from mini_models.single_file import single_file
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("full")
    with torch.inference_mode(False), torch.no_grad():
        networks = unet, vae, _ = empty_networks()
        parts = [_random(part, seed) for seed, part in enumerate(networks)]
        parts[2] = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in parts[2].items()}
        save_file(single_file(*parts), folder / "sd21.safetensors")
        torch.save(official_content(unet, vae), folder / "osediff.pkl")
    del parts
    gc.collect()
    return folder


def _random(network, seed):
    """fp16 values whose activations stay of order 1, taken from one block of noise, as a billion draws take long."""
    noise = torch.randn(2**24, generator=torch.Generator().manual_seed(seed))
    tensors, start = {}, 0
    for name, tensor in network.state_dict().items():
        if name.endswith("position_ids"):
            continue
        places = torch.arange(start, start + tensor.numel()) % len(noise)
        start += tensor.numel()
        values = noise[places].view(tensor.shape)
        if tensor.ndim > 1:
            values *= 0.5 / tensor[0].numel() ** 0.5
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values *= 0.02
        tensors[name] = values.half().contiguous()
    return tensors


def test_a_users_checkpoint_equals_the_core(pack, checkpoint, photo):
    """1e-4 relative in fp32, each stage from the same input: prompt, encode, denoise, decode."""
    import folder_paths

    from osediff_core import OneStepGenerator

    for kind in ("checkpoints", pack.folders.FOLDER):
        folder_paths.add_model_folder_path(kind, str(checkpoint))
    text = "a red barn, grass"
    model, clip, vae = pack.load.LoadOSEDiff.execute("sd21.safetensors", "osediff.pkl", 1.0, 1.0, "fp32").args
    lora = [key for key, patches in model.patches.items() if key.endswith("weight") and patches]
    assert len(lora) == 258 and len(vae.patcher.patches) == 32
    assert pack.native_lora.attachment_of(model).timestep == 999
    latent, reference = encode(pack, photo, vae, scale=1.0)
    positive = prompt(pack, clip, text)
    restored = denoise(pack, model, positive, latent)
    decoded = pack.decode.TiledDecode.execute(restored, vae, 0, "none", 1.0).args[0]
    tiled_latent, _ = encode(pack, photo, vae, scale=1.0, tile=40)
    tiled = pack.decode.TiledDecode.execute(restored, vae, 40, "none", 1.0).args[0]
    del model, clip, vae
    import comfy.model_management

    comfy.model_management.unload_all_models()
    gc.collect()

    with torch.inference_mode(False), torch.no_grad():
        core = OneStepGenerator.load(
            checkpoint / "sd21.safetensors", checkpoint / "osediff.pkl", dtype="fp32", device="cpu"
        )
        scale = core.vae.scaling_factor
        image = (reference.movedim(-1, 1) * 2 - 1).clone()
        embeds = core.encode_prompt([text])
        latents, x0 = latent["samples"].clone() * scale, restored["samples"].clone() * scale
        assert distance(positive[0][0], embeds) < 1e-4
        assert distance(latents, core.encode(image)) < 1e-4
        assert distance(x0, core.denoise(latents, embeds)) < 1e-4
        expected = core.decode(x0)
        assert distance(planes(decoded), expected) < 1e-4
        assert distance(tiled_latent["samples"], latent["samples"]) < 1e-4
        assert distance(planes(tiled), expected) < 1e-4
        assert 0.05 < expected.std() < 1, "the decoded values say nothing"
