"""The nodes as functions with their default inputs."""

import torch


def prompt(pack, clip, text=""):
    return pack.prompt.DAPEPrompt.execute(clip, text, "", 0.0, "").args[0]


def encode(pack, image, vae, **changes):
    defaults = {
        "scale": 4.0,
        "width": 0,
        "height": 0,
        "resize_method": "bicubic",
        "tile": 0,
        "posterior": "mode",
        "seed": 0,
    }
    return pack.encode.EncodeLQ.execute(image, vae, **{**defaults, **changes}).args


def denoise(pack, model, positive, latent, **changes):
    defaults = {"tile": 96, "overlap": 32, "strength": 1.0, "cfg": 1.0}
    return pack.denoise.OneStepDenoise.execute(model, positive, latent, **{**defaults, **changes}).args[0]


def decode(pack, latent, vae, **changes):
    defaults = {"tile": 0, "color_fix": "adain", "color_weight": 1.0}
    return pack.decode.TiledDecode.execute(latent, vae, **{**defaults, **changes}).args[0]


def restore(pack, models, image, text="", **encoding):
    model, clip, vae = models
    latent, reference = encode(pack, image, vae, **encoding)
    return decode(pack, denoise(pack, model, prompt(pack, clip, text), latent), vae), reference


def distance(found, expected):
    """Largest difference, relative to the largest value."""
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    return ((found - expected).abs().max() / expected.abs().max()).item()


def planes(image):
    """IMAGE (B, H, W, C) in [0, 1] -> (B, C, H, W) in [-1, 1]."""
    return image.movedim(-1, 1) * 2 - 1
