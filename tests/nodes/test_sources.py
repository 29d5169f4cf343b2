"""Colours, crop and alpha of a LATENT's pictures: with the frames they belong to, whatever ComfyUI's nodes do."""

import gc

import pytest
import torch
from node_graph import decode, denoise, encode, prompt
from stock_nodes import run

SIZE = (45, 69)  # of 30 x 46 pixels at 1.5; the latents are those of 48 x 72
RED, BLUE = (0.8, 0.2, 0.0), (0.0, 0.0, 0.8)


def picture(colour, opaque=None, size=(30, 46)):
    """IMAGE of one colour with some noise; opaque: "left" or "right" half, for one with alpha."""
    image = torch.tensor(colour).expand(1, *size, 3) + 0.1 * torch.rand(1, *size, 3)
    if opaque is None:
        return image
    alpha = torch.zeros(1, *size, 1)
    half = slice(0, size[1] // 2) if opaque == "left" else slice(size[1] // 2, None)
    alpha[:, :, half] = 1
    return torch.cat([image, alpha], -1)


@pytest.fixture
def encoded(pack, tiny):
    return lambda *pictures, scale=1.5: encode(pack, torch.cat(pictures), tiny[2], scale=scale)[0]


@pytest.fixture
def restored(pack, tiny):
    """The LATENT through the step and the decoder, as (main colour, opaque half) of each frame, and its size."""

    def restore(latent):
        image = decode(pack, denoise(pack, tiny[0], prompt(pack, tiny[1]), latent), tiny[2])
        return [look(frame) for frame in image], tuple(image.shape[1:3])

    return restore


def look(frame):
    red, _, blue = frame[..., :3].mean((0, 1))
    colour = "red" if red > blue else "blue"
    if frame.shape[-1] == 3:
        return colour
    left, right = frame[:, :20, 3].mean(), frame[:, -20:, 3].mean()
    return colour, "all" if min(left, right) > 0.9 else "left" if left > right else "right"


def said(caplog):
    """The pack's own warnings."""
    return [record.message for record in caplog.records if "osediff" in record.name]


def test_frames_that_are_joined_keep_their_own(encoded, restored):
    red, blue = encoded(picture(RED)), encoded(picture(BLUE))
    assert restored(run("LatentBatch", samples1=red, samples2=blue)) == (["red", "blue"], SIZE)
    a, b = encoded(picture(RED, "left")), encoded(picture(BLUE, "right"))
    joined = run("LatentBatch", samples1=a, samples2=b)
    assert restored(joined) == ([("red", "left"), ("blue", "right")], SIZE)
    mixed = run("LatentBatch", samples1=red, samples2=b)
    assert restored(mixed) == ([("red", "all"), ("blue", "right")], SIZE)


@pytest.mark.parametrize("step_first", [False, True])
def test_frames_picked_repeated_and_put_in_another_order(pack, tiny, encoded, step_first, caplog):
    latent = encoded(picture(RED, "left"), picture(BLUE, "right"), picture(RED, "right"))
    if step_first:
        latent = denoise(pack, tiny[0], prompt(pack, tiny[1]), latent)
    a, b, c = ("red", "left"), ("blue", "right"), ("red", "right")
    picked = run("LatentFromBatch", samples=latent, batch_index=1, length=2)
    turned = {**latent, "samples": latent["samples"][[2, 1, 0]]}
    for changed, expected in (
        (picked, [b, c]),
        (run("LatentFromBatch", samples=picked, batch_index=1, length=1), [c]),
        (run("RepeatLatentBatch", samples=picked, amount=2), [b, c, b, c]),
        (turned, [c, b, a]),
        (run("LatentBatch", samples1=turned, samples2=picked), [c, b, a, b, c]),
        (run("LatentBatchSeedBehavior", samples=latent, seed_behavior="fixed"), [a, b, c]),
    ):
        image = decode(pack, changed, tiny[2])
        assert [look(frame) for frame in image] == expected and tuple(image.shape[1:3]) == SIZE
    rebatched = run("RebatchLatents", latents=[latent, picked], batch_size=[2])
    assert [[look(frame) for frame in decode(pack, one, tiny[2])] for one in rebatched] == [
        [a, b],
        [c, b],
        [c],
    ]
    assert not said(caplog)


def test_pictures_of_the_same_colours_keep_their_own_alpha(pack, tiny, encoded):
    """Their latents are equal, since nothing in them is hidden."""
    image = picture(RED)
    left, right = (
        torch.cat([image, picture(RED, half)[..., 3:].clamp(min=0.2)], -1) for half in ("left", "right")
    )
    both = encoded(left, right, scale=1.0)
    assert torch.equal(both["samples"][0], both["samples"][1])
    apart = run("LatentBatch", samples1=encoded(right, scale=1.0), samples2=encoded(left, scale=1.0))
    for latent, expected in (
        (both, ["left", "right"]),
        (run("RepeatLatentBatch", samples=both, amount=2), ["left", "right"] * 2),
        (run("LatentFromBatch", samples=both, batch_index=1, length=1), ["right"]),
        (run("RebatchLatents", latents=[both], batch_size=[1])[1], ["right"]),
        (apart, ["right", "left"]),
    ):
        assert [look(frame)[1] for frame in decode(pack, latent, tiny[2])] == expected


def test_a_frame_that_another_replaces_shows_the_other(encoded, restored):
    red, blue = encoded(picture(RED)), encoded(picture(BLUE, "left"))
    over = run("LatentComposite", samples_to=red, samples_from=blue, x=0, y=0, feather=0)
    assert restored(over) == ([("blue", "left")], SIZE)


def changes(red, blue):
    def one(node, **inputs):
        return lambda: run(node, samples=red, **inputs)

    def two(node, **inputs):
        return lambda: run(node, samples1=red, samples2=blue, **inputs)

    def over():
        return run("LatentComposite", samples_to=red, samples_from=blue, x=16, y=0, feather=0)

    return {
        "composite": over,
        "interpolate": two("LatentInterpolate", ratio=0.5),
        "blend": two("LatentBlend", blend_factor=0.5),
        "add": two("LatentAdd"),
        "subtract": two("LatentSubtract"),
        "concatenate": two("LatentConcat", dim="x"),
        "multiply": one("LatentMultiply", multiplier=1.1),
        "flip": one("LatentFlip", flip_method="y-axis: horizontally"),
        "rotate": one("LatentRotate", rotation="180 degrees"),
        "crop": one("LatentCrop", width=64, height=64, x=0, y=0),
        "cut": one("LatentCut", dim="x", index=0, amount=8),
        "enlarge": one("LatentUpscaleBy", upscale_method="bilinear", scale_by=2.0),
    }


@pytest.mark.parametrize("name", changes(None, None))
def test_what_no_longer_fits_is_left_out_and_said(pack, tiny, encoded, caplog, name):
    red, blue = encoded(picture(RED, "left")), encoded(picture(BLUE, "right"))
    latent = changes(red, blue)[name]()
    node = pack.decode.TiledDecode.execute(latent, tiny[2], 0, "adain", 1.0)
    expected = tiny[2].decode(latent["samples"])
    assert torch.allclose(node.args[0], expected, atol=1e-4)  # whole, without colours and alpha
    (warning,) = said(caplog)
    assert warning.startswith("Another node changed") and node.ui["text"] == (warning,)
    caplog.clear()
    denoise(pack, tiny[0], prompt(pack, tiny[1]), latent)
    assert said(caplog) == [warning]


def test_one_foreign_frame_costs_the_others_no_colours(pack, tiny, encoded, caplog):
    latent = encoded(picture(RED, "left"))
    foreign = {"samples": tiny[2].encode(torch.rand(1, 48, 72, 3))}
    node = pack.decode.TiledDecode.execute(
        run("LatentBatch", samples1=foreign, samples2=latent), tiny[2], 0, "adain", 1.0
    )
    assert node.args[0].shape == (2, 48, 72, 3)  # frames of one IMAGE have one size
    warnings = said(caplog)
    assert len(warnings) == 2 and "(frame 1 of 2)" in warnings[0] and "different sizes" in warnings[1]
    plain = tiny[2].decode(latent["samples"])
    reference = encode(pack, picture(RED), tiny[2], scale=1.5)[1]
    for channel in (0, 2):
        assert abs(node.args[0][1, ..., channel].mean() - reference[..., channel].mean()) < 0.02
    assert (node.args[0][1] - plain[0]).abs().max() > 1e-3


def test_samplers_of_this_model_keep_what_their_latents_show(pack, tiny, encoded, caplog):
    model, clip, vae = tiny
    latent = encoded(picture(RED, "left"))
    positive = prompt(pack, clip)
    sampler, sigmas = pack.denoise.OSEDiffSampler.execute(model, 96, 32, 1.0).args
    guider = run("BasicGuider", model=model, conditioning=positive)
    noise = run("DisableNoise")
    stepped = run(
        "SamplerCustomAdvanced",
        noise=noise,
        guider=guider,
        sampler=sampler,
        sigmas=sigmas,
        latent_image=latent,
    )
    settings = {
        "seed": 1,
        "steps": 2,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 0.2,
    }
    refined = run(
        "KSampler", model=model, positive=positive, negative=positive, latent_image=stepped, **settings
    )
    for made in (stepped, refined):
        assert [look(frame) for frame in decode(pack, made, vae)] == [("red", "left")]
    assert not said(caplog)


def test_colours_that_cannot_be_fixed_are_said(pack, tiny, caplog):
    latent = {"samples": tiny[2].encode(torch.rand(1, 32, 48, 3))}
    decode(pack, latent, tiny[2], color_fix="none")
    decode(pack, latent, tiny[2], reference=torch.rand(1, 8, 8, 3))
    assert not said(caplog)
    decode(pack, latent, tiny[2])
    assert "color_fix adain changes nothing" in caplog.text


def test_nothing_is_kept_that_no_latent_has(pack, encoded):
    gc.collect()
    before = len(pack.sources._alive)
    latent = encoded(picture(RED), picture(BLUE))
    assert len(pack.sources._alive) == before + 2
    del latent
    gc.collect()
    assert len(pack.sources._alive) == before
