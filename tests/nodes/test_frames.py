"""Batches, alpha, masks, sizes: what crosses the border between ComfyUI and the core."""

import pytest
import torch
from node_graph import decode, denoise, encode, prompt, restore


def same(a, b):
    return torch.allclose(a, b, atol=1e-5)


def test_each_frame_of_a_batch_is_as_if_alone(pack, tiny, photo):
    batch = torch.cat([photo, photo.flip(2), photo.flip(1)])
    together, reference = restore(pack, tiny, batch, "barn", scale=2.0)
    assert together.shape == (3, 64, 96, 3) and reference.shape == together.shape
    for frame in range(3):
        alone, _ = restore(pack, tiny, batch[frame : frame + 1], "barn", scale=2.0)
        assert same(together[frame : frame + 1], alone)


def test_each_frame_has_its_own_prompt(pack, tiny, photo):
    model, clip, vae = tiny
    latent, _ = encode(pack, torch.cat([photo, photo]), vae, scale=2.0)
    both = pack.prompt.encode_prompts(clip, ["barn, grass", "polar bear"])
    assert both[0][0].shape[:2] == (2, 77)
    found = denoise(pack, model, both, latent)["samples"]
    for frame, text in enumerate(("barn, grass", "polar bear")):
        alone = denoise(pack, model, prompt(pack, clip, text), {"samples": latent["samples"][:1]})
        assert same(found[frame : frame + 1], alone["samples"])
    assert not same(found[:1], found[1:])


def test_the_unet_sees_one_frame_at_a_time(pack, tiny, photo):
    """Memory does not grow with the number of frames."""
    seen = []

    def look(executor, *args, **kwargs):
        seen.append(args[0].shape[0])
        return executor(*args, **kwargs)

    import comfy.patcher_extension

    model, clip, vae = tiny
    model = model.clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "test", look)
    latent, _ = encode(pack, photo.repeat(4, 1, 1, 1), vae, scale=1.0)
    denoise(pack, model, prompt(pack, clip), latent)
    assert seen == [1, 1, 1, 1]


@pytest.mark.parametrize(("device", "at_once"), [("cpu", 1), ("cuda", 4)])
def test_room_is_made_for_what_the_unet_sees_at_once(pack, tiny, device, at_once):
    """Nothing is computed here: only what ComfyUI is asked to make room for."""
    import comfy.patcher_extension

    model = tiny[0].clone()
    model.load_device = torch.device(device)
    kind, asked = comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, []
    for tile in (0, 16):
        prepared = pack.denoise._with_true_memory_needs(model, torch.zeros(5, 8, 40, 60), tile)
        ((wrapper,),) = prepared.wrappers[kind].values()
        wrapper(lambda patcher, shape: asked.append(shape), prepared, None)
    assert asked == [[1, 8, 40, 60], [at_once, 8, 16, 16]]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (17, 31)])
def test_any_size(pack, tiny, photo, size):
    restored, reference = restore(pack, tiny, photo[:, : size[0], : size[1]], scale=3.0)
    assert restored.shape == (1, 3 * size[0], 3 * size[1], 3) == reference.shape
    assert torch.isfinite(restored).all() and restored.min() >= 0 and restored.max() <= 1


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({"scale": 2.5}, (80, 120)),
        ({"width": 100}, (67, 100)),
        ({"height": 100}, (100, 150)),
        ({"width": 70, "height": 90}, (90, 70)),
        ({"scale": 1.0}, (32, 48)),
        ({"scale": 0.5, "resize_method": "lanczos"}, (16, 24)),
        ({"scale": 2.0, "resize_method": "nearest-exact"}, (64, 96)),
    ],
)
def test_asked_sizes(pack, tiny, photo, asked, got):
    restored, _ = restore(pack, tiny, photo, **asked)
    assert restored.shape[1:3] == got


def test_alpha_is_kept_and_enlarged(pack, tiny, photo):
    alpha = torch.zeros(1, 32, 48, 1)
    alpha[:, 8:24, 8:40] = 1
    restored, reference = restore(pack, tiny, torch.cat([photo, alpha], dim=-1))
    assert restored.shape == (1, 128, 192, 4) and reference.shape[-1] == 3
    assert restored[0, 64, 96, 3] == 1 and restored[0, 4, 4, 3] == 0


def test_grey_stays_grey(pack, tiny, photo):
    grey = photo.mean(-1, keepdim=True)
    for image in (grey, grey.expand(-1, -1, -1, 3)):
        restored, _ = restore(pack, tiny, image)
        assert torch.equal(restored[..., 0], restored[..., 1]) and torch.equal(
            restored[..., 1], restored[..., 2]
        )


def test_a_noise_mask_restricts_the_restoration(pack, tiny, photo):
    model, clip, vae = tiny
    latent, _ = encode(pack, photo, vae)
    positive = prompt(pack, clip)
    mask = torch.zeros(1, 128, 192)
    mask[:, :, 96:] = 1
    found = denoise(pack, model, positive, {**latent, "noise_mask": mask})["samples"]
    whole = denoise(pack, model, positive, latent)["samples"]
    assert same(found[..., :20], latent["samples"][..., :20])
    assert same(found[..., 28:], whole[..., 28:])


def test_strength_blends_latents(pack, tiny, photo):
    model, clip, vae = tiny
    latent, _ = encode(pack, photo, vae)
    none, half, whole = (
        denoise(pack, model, prompt(pack, clip), latent, strength=s)["samples"] for s in (0, 0.5, 1)
    )
    assert same(none, latent["samples"])
    assert same(half, (none + whole) / 2)
    assert not same(none, whole)


def test_unknown_entries_of_a_latent_are_handed_on(pack, tiny, photo):
    model, clip, vae = tiny
    latent, _ = encode(pack, photo, vae)
    out = denoise(pack, model, prompt(pack, clip), {**latent, "batch_index": [3]})
    assert out["batch_index"] == [3] and out.keys() == {*latent, "batch_index"}


def test_decode_of_other_latents_leaves_out_what_does_not_fit(pack, tiny, photo):
    """Without Encode LQ, or with latents enlarged since: nothing to crop, and no colours to take."""
    _, _, vae = tiny
    latent, _ = encode(pack, photo[:, :31, :47], vae, scale=1.0)
    assert decode(pack, latent, vae).shape == (1, 31, 47, 3)
    foreign = vae.encode(photo.flip(1))
    assert decode(pack, {"samples": foreign}, vae).shape == (1, 32, 48, 3)
    larger = torch.nn.functional.interpolate(latent["samples"], scale_factor=2)
    assert decode(pack, {**latent, "samples": larger}, vae).shape == (1, 64, 96, 3)


def test_a_connected_reference_wins(pack, tiny, photo):
    _model, _, vae = tiny
    latent, _ = encode(pack, photo, vae)
    red = torch.tensor([1.0, 0.2, 0.1]).expand(1, 8, 8, 3)
    image = decode(pack, latent, vae, reference=red)
    assert torch.allclose(image.mean((0, 1, 2)), torch.tensor([1.0, 0.2, 0.1]), atol=0.02)
