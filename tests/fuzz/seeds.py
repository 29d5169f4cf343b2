"""The good files that bad ones are made of: small, of every kind, made anew."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from mini_models.checkpoints import official_content
from mini_models.networks import tiny_unet, tiny_vae
from PIL import Image, ImageCms
from safetensors.torch import save

from osediff_core.backends.find_base import PACKAGED
from osediff_core.weights.checkpoint import read_weights, write_weights

SIDE = 16


@dataclass(frozen=True)
class Seeds:
    """images: name -> content. weights: name -> content. base: a folder to copy. picture: a good one."""

    images: dict[str, bytes]
    weights: dict[str, bytes]
    base: Path
    picture: Path


def make_seeds(folder: Path) -> Seeds:
    """Write into `folder` what has to be files."""
    base = Path(shutil.copytree(PACKAGED["tiny"], folder / "base"))
    images = _images()
    picture = folder / "good.png"
    picture.write_bytes(images["rgb.png"])
    return Seeds(images, _weights(folder), base, picture)


def _images() -> dict[str, bytes]:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    rgb = np.stack([x * 15, y * 15, (x + y) * 7], -1).astype(np.uint8)
    picture = Image.fromarray(rgb)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    found = {}
    for name, image, options in [
        ("rgb.png", picture, {"icc_profile": profile}),
        ("alpha.png", picture.convert("RGBA"), {"exif": exif}),
        ("palette.png", picture.quantize(16), {}),
        ("grey.png", picture.convert("L"), {}),
        ("photo.jpg", picture, {"exif": exif, "icc_profile": profile}),
        ("cmyk.jpg", picture.convert("CMYK"), {}),
        ("still.webp", picture, {"lossless": True, "icc_profile": profile}),
        ("still.gif", picture.quantize(16), {}),
        ("plain.bmp", picture, {}),
        ("packed.tif", picture, {"compression": "tiff_lzw"}),
    ]:
        buffer = io.BytesIO()
        image.save(buffer, Image.registered_extensions()[f".{name.split('.')[1]}"], **options)
        found[name] = buffer.getvalue()
    for name, array in {
        "deep.tif": rgb.astype(np.uint16) * 257,
        "float.tif": (rgb / 255).astype(np.float32),
        "planes.tif": np.concatenate([rgb, rgb[..., :1]], -1),
    }.items():
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, array, photometric="rgb")
        found[name] = buffer.getvalue()
    return found


def _weights(folder: Path) -> dict[str, bytes]:
    content = official_content(tiny_unet(), tiny_vae())
    path = folder / "w.pkl"
    torch.save(content, path)
    write_weights(folder / "w.safetensors", read_weights(path))
    found = {"official.pkl": path.read_bytes(), "ours.safetensors": (folder / "w.safetensors").read_bytes()}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    found["legacy.pth"] = path.read_bytes()
    unet = "model.diffusion_model."
    foreign = {
        "sd.safetensors": {
            unet + "input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3),
            unet + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(8, 1024),
            "first_stage_model.encoder.conv_in.weight": torch.zeros(128, 3, 3, 3),
            "cond_stage_model.model.ln_final.weight": torch.zeros(8),
        },
        "kohya.safetensors": {
            "lora_unet_x.lora_down.weight": torch.zeros(4, 8),
            "lora_unet_x.alpha": torch.ones(1),
        },
        "ram.safetensors": {
            "visual_encoder.patch_embed.proj.weight": torch.zeros(8, 3, 4, 4),
            "label_embed": torch.zeros(9, 2),
        },
        "fp8.safetensors": {
            "l.weight": torch.ones(4, 4).to(torch.float8_e4m3fn),
            "l.scale_weight": torch.ones(()),
        },
        "adapters.safetensors": {
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": torch.zeros(
                4, 64
            ),
            "conv_in.weight": torch.zeros(8, 4, 3, 3),
        },
    }
    for name, tensors in foreign.items():
        found[name] = save(tensors, {"format": "pt", "note": json.dumps({"a": 1})})
    return found
