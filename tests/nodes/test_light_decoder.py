"""Light Decoder on ComfyUI's own classes: equal to the core's, beside the VAE that it was made of."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from node_graph import decode, distance, encode, planes
from refusals import refused

WIDTHS = (32, 32, 64, 64)


@pytest.fixture(scope="module")
def files(pack, tmp_path_factory):
    """AdcSR's and VOSR's files at half their size, in a folder of the pack's."""
    import folder_paths
    from diffusers.models.autoencoders.vae import Decoder

    folder = tmp_path_factory.mktemp("decoders")
    with torch.inference_mode(False), torch.random.fork_rng():
        torch.manual_seed(11)
        half = Decoder(4, 3, ("UpDecoderBlock2D",) * 4, WIDTHS, 2).state_dict()
    torch.save(
        {"state_dict": {f"decoder.{n}": t for n, t in half.items()}}, folder / "light_halfDecoder.ckpt"
    )
    torch.save({"config": {}, "model_state_dict": half}, folder / "sd21_lwdecoder.pth")
    torch.save(
        {"1.weight": torch.zeros(64, 4, 3, 3), "19.weight": torch.zeros(3, 64, 3, 3)}, folder / "taesd.pth"
    )
    folder_paths.add_model_folder_path(pack.folders.FOLDER, str(folder))
    return folder


@pytest.fixture(scope="module")
def vae(pack, mini, tmp_path_factory):
    """The miniature's VAE, of SD 2.1's topology."""
    folder = tmp_path_factory.mktemp("native") / "mini"
    shutil.copytree(mini.base, folder)
    (folder / "vae" / "latent_rgb.json").write_text(
        json.dumps({"factors": [[0, 0, 0]] * 4, "bias": [0, 0, 0]})
    )
    with torch.inference_mode():
        return pack.native_folder.load_vae(folder, torch.float32)


@pytest.mark.parametrize("name", ["light_halfDecoder.ckpt", "sd21_lwdecoder.pth"])
def test_it_equals_the_cores_and_leaves_the_vae_as_it_was(pack, mini, files, vae, photo, name):
    from osediff_core import OneStepGenerator

    core = OneStepGenerator.load(mini.base, mini.weights, dtype="fp32", device="cpu", decoder=files / name)
    latent, _ = encode(pack, photo, vae)
    before = decode(pack, latent, vae, color_fix="none")
    light = pack.light_decoder.LightDecoder.execute(vae, name).args[0]
    expected = core.decode(latent["samples"] * 0.18215)
    for tile in (0, 64):
        found = decode(pack, latent, light, color_fix="none", tile=tile)
        assert distance(planes(found), expected) < 1e-4
    assert distance(light.decode(latent["samples"]), (expected.movedim(1, -1) + 1) / 2) < 1e-4, "VAE Decode"
    assert torch.equal(encode(pack, photo, light)[0]["samples"], latent["samples"])
    assert torch.equal(decode(pack, latent, vae, color_fix="none"), before)
    assert distance(before, found) > 0.01


def test_what_does_not_fit_is_refused(pack, files, tiny, vae):
    errors = pack.core.errors
    node = pack.light_decoder.LightDecoder
    with refused(errors.CheckpointError, "decodes 4 latent channels at 1/8", "8 at 1/4"):
        node.execute(tiny[2], "light_halfDecoder.ckpt")
    with refused(errors.CheckpointError, "which ComfyUI loads itself"):
        node.execute(vae, "taesd.pth")
    with refused(errors.CheckpointError, "There is no file gone.ckpt"):
        node.execute(vae, "gone.ckpt")
