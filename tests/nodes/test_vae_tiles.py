"""The core's exact tiles on ComfyUI's VAE: the whole picture's result, from wherever ComfyUI keeps the weights."""

import pytest
import torch
from node_graph import decode, denoise, encode, prompt

BOUND = 1e-5


@pytest.fixture(scope="module")
def whole(pack, tiny, photo):
    with torch.inference_mode():
        latent, _ = encode(pack, photo, tiny[2])
        return latent, decode(pack, latent, tiny[2])


def farthest(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize("tile", [24, 64, 100])
def test_tiles_are_exact(pack, tiny, photo, whole, tile):
    latent, _ = encode(pack, photo, tiny[2], tile=tile)
    assert farthest(latent["samples"], whole[0]["samples"]) < 5 * BOUND
    assert farthest(decode(pack, whole[0], tiny[2], tile=tile), whole[1]) < BOUND


def test_comfyui_s_own_tiles_are_not(pack, tiny, whole):
    theirs = tiny[2].decode_tiled(whole[0]["samples"], tile_x=16, tile_y=16, overlap=4)
    assert farthest(theirs, tiny[2].decode(whole[0]["samples"])) > 1000 * BOUND


def test_a_batch_in_tiles(pack, tiny, photo):
    batch = torch.cat([photo, photo.flip(2) * 0.5])
    latent, _ = encode(pack, batch, tiny[2], tile=64, vae_attention="exact")
    expected, _ = encode(pack, batch, tiny[2])
    assert farthest(latent["samples"], expected["samples"]) < 5 * BOUND
    tiled = decode(pack, expected, tiny[2], tile=64, vae_attention="exact")
    assert farthest(tiled, decode(pack, expected, tiny[2])) < BOUND


def test_pooled_attention_is_near(pack, tiny, whole):
    pooled = decode(pack, whole[0], tiny[2], tile=64, vae_attention="pooled")
    assert 1e-7 < farthest(pooled, whole[1]) < 0.5 / 255


def test_little_memory_means_tiles(pack, tiny, photo, whole, monkeypatch):
    done = []
    monkeypatch.setattr(pack.core.tiles.vae.stage, "budget_of", lambda *_: 2_000_000)
    real = pack.core.tiles.vae.stage.transform
    monkeypatch.setattr(pack.core.tiles.vae.stage, "transform", lambda *a: done.append(a) or real(*a))
    latent, _ = encode(pack, photo, tiny[2])
    assert farthest(latent["samples"], whole[0]["samples"]) < 5 * BOUND
    assert farthest(decode(pack, whole[0], tiny[2]), whole[1]) < BOUND
    assert len(done) == 2


def test_streamed_weights(pack, tiny, photo, whole, monkeypatch):
    """A tiny budget, so that ComfyUI leaves weights off the device and patches each as it is needed."""
    import comfy.model_management

    patcher = tiny[2].patcher
    comfy.model_management.unload_all_models()
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *_, **__: None)
    patcher.load(torch.device("cpu"), lowvram_model_memory=32 << 10)
    try:
        layers = [m for m in patcher.model.modules() if getattr(m, "weight_function", None)]
        assert len(layers) > 10, "nothing is streamed"
        latent, _ = encode(pack, photo, tiny[2], tile=64)
        assert farthest(latent["samples"], whole[0]["samples"]) < 5 * BOUND
    finally:
        patcher.detach()


def test_half_precision_in_tiles(pack, whole):
    vae = pack.load.LoadOSEDiff.execute(pack.folders.EMBEDDED, pack.folders.EMBEDDED, 1.0, 1.0, "bf16").args[
        2
    ]
    exact = whole[1]
    untiled, tiled = (decode(pack, whole[0], vae, tile=tile) for tile in (0, 64))
    assert (tiled - exact).square().mean() < 1.5 * (untiled - exact).square().mean()


def test_an_interruption_is_noticed_between_tiles(pack, tiny, whole, monkeypatch):
    import comfy.model_management
    import comfy.utils

    seen = []

    def hook(value, total, preview, **_):
        seen.append((value, total))
        if len(seen) == 3:
            comfy.model_management.interrupt_current_processing(True)

    for limit in ("INTERVAL", "PERCENT"):  # ComfyUI passes on no more than so much, and tiles are fast here
        monkeypatch.setattr(comfy.utils, f"PROGRESS_THROTTLE_MIN_{limit}", 0, raising=False)
    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            decode(pack, whole[0], tiny[2], tile=32)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        comfy.model_management.interrupt_current_processing(False)
    assert len(seen) == 3 and seen[-1][0] < seen[-1][1]


def test_attention_that_gives_zeros_is_not_computed_unless_a_patch_makes_it_act(pack, tiny, photo):
    import copy

    vae = copy.copy(tiny[2])
    vae.patcher = vae.patcher.clone()
    out = "decoder.mid.attn_1.proj_out"
    kept = {name: vae.first_stage_model.state_dict()[f"{out}.{name}"].clone() for name in ("weight", "bias")}
    vae.patcher.add_patches({f"{out}.{name}": ("set", (torch.zeros_like(v),)) for name, v in kept.items()})

    def acting(vae: object) -> list:
        layers = pack.native_vae.NativeVAE(vae).decoder(8, 8).layers
        return [layer for layer in layers if hasattr(layer, "idle") and not layer.idle()]

    assert len(acting(tiny[2])) == 1 and not acting(vae)
    latent, _ = encode(pack, photo, tiny[2], scale=1.0)
    found = decode(pack, latent, vae, color_fix="none")
    assert farthest(found, vae.decode(latent["samples"])) < BOUND
    vae.patcher.add_patches({f"{out}.weight": ("diff", (kept["weight"],))})
    assert len(acting(vae)) == 1


def test_a_vae_of_another_kind_is_left_to_comfyui(pack):
    """TAESD: no group norms, no posterior."""
    import comfy.sd
    import comfy.taesd.taesd

    tensors = comfy.taesd.taesd.TAESD(latent_channels=4).state_dict()
    random = {name: torch.randn(tensor.shape) * 0.05 for name, tensor in tensors.items()}
    vae = comfy.sd.VAE(sd=random, dtype=torch.float32)
    native = pack.native_vae.NativeVAE(vae)
    assert native.encoder(64, 64) is None and native.decoder(8, 8) is None
    image = torch.rand(1, 32, 48, 3)
    latent, _ = encode(pack, image, vae, scale=1.0, tile=16)
    assert farthest(latent["samples"], vae.encode(image)) < 10 * BOUND
    assert (
        farthest(decode(pack, latent, vae, tile=16, color_fix="none"), vae.decode(latent["samples"])) < BOUND
    )


def test_the_step_in_tiles_between_the_vae_in_tiles(pack, tiny, photo):
    """All of it as a workflow would."""
    model, clip, vae = tiny
    latent, _ = encode(pack, photo, vae, tile=64)
    restored = denoise(pack, model, prompt(pack, clip, "barn"), latent)
    expected = denoise(pack, model, prompt(pack, clip, "barn"), encode(pack, photo, vae)[0])
    assert farthest(decode(pack, restored, vae, tile=64), decode(pack, expected, vae)) < 1e-3
