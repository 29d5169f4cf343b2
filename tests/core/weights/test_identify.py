from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from mini_models.checkpoints import official_content
from mini_models.networks import tiny_unet, tiny_vae

from osediff_core.errors import CheckpointError
from osediff_core.weights import tensor_file
from osediff_core.weights.checkpoint import read_weights, write_weights
from osediff_core.weights.describe import describe
from osediff_core.weights.identify import identify

UNET = "model.diffusion_model."
PROBE = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"


def sd_tensors(context: int, channels: int = 4, probe_std: float | None = None) -> dict[str, torch.Tensor]:
    tensors = {
        UNET + "input_blocks.0.0.weight": torch.zeros(320, channels, 3, 3),
        UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(8, context),
        "first_stage_model.encoder.conv_in.weight": torch.zeros(128, 3, 3, 3),
    }
    if probe_std is not None:
        tensors[PROBE] = torch.tensor([probe_std, -probe_std]).repeat(160)
    return tensors


@pytest.mark.parametrize("container", ["safetensors", "torch-zip", "torch-legacy"])
@pytest.mark.parametrize(
    ("tensors", "kind", "what", "details"),
    [
        (
            sd_tensors(1024, probe_std=0.05),
            "sd_checkpoint",
            "a Stable Diffusion 2.x checkpoint",
            {"family": "sd2", "prediction_type": "epsilon"},
        ),
        (
            sd_tensors(1024, probe_std=0.2),
            "sd_checkpoint",
            "a Stable Diffusion 2.x v-prediction checkpoint",
            {"family": "sd2", "prediction_type": "v_prediction"},
        ),
        (
            sd_tensors(1024, 9),
            "sd_checkpoint",
            "a Stable Diffusion 2.x inpainting checkpoint",
            {"in_channels": 9},
        ),
        (sd_tensors(768), "sd_checkpoint", "a Stable Diffusion 1.x checkpoint", {"family": "sd1"}),
        (sd_tensors(2048), "sd_checkpoint", "an SDXL checkpoint", {"family": "sdxl"}),
        (sd_tensors(1280), "sd_checkpoint", "an SDXL refiner checkpoint", {"family": "sdxl"}),
        (
            {UNET + "double_blocks.0.img_attn.qkv.weight": torch.zeros(3)},
            "sd_checkpoint",
            "a checkpoint of another diffusion model (not a Stable Diffusion UNet)",
            {},
        ),
        (
            {"lora_unet_x.lora_down.weight": torch.zeros(3), "lora_unet_x.alpha": torch.zeros(1)},
            "lora",
            "a LoRA in the kohya format",
            {"style": "kohya"},
        ),
        ({"unet.x.lora_A.weight": torch.zeros(3)}, "lora", "a LoRA in the diffusers or ComfyUI format", {}),
        ({"conv_first.weight": torch.zeros(3)}, "upscaler", "an upscaler network such as ESRGAN", {}),
        (
            {"text_model.embeddings.token_embedding.weight": torch.zeros(3)},
            "text_encoder",
            "a CLIP text encoder",
            {},
        ),
        ({"whatever": torch.zeros(3)}, "unknown", "an unknown kind of model", {}),
    ],
)
def test_by_keys_and_shapes(tmp_path, container, tensors, kind, what, details):
    path = tmp_path / "misleading.name"
    if container == "safetensors":
        safetensors.torch.save_file(tensors, path)
    else:  # trainers nest the weights
        torch.save(
            {"epoch": 3, "state_dict": tensors}, path, _use_new_zipfile_serialization=container == "torch-zip"
        )
    found = identify(path)
    assert (found.kind, found.what, found.container) == (kind, what, container)
    assert details.items() <= found.details.items()
    assert found.use
    if kind != "osediff":
        with pytest.raises(CheckpointError, match="not OSEDiff weights"):
            read_weights(path)


def test_tagger_files(tmp_path, reference_dir):
    listing = json.loads((reference_dir / "golden" / "ram_keys.json").read_text())
    for kind in ("ram", "dape"):
        tensors = {name: torch.zeros(1).expand(*shape) for name, shape, *_ in listing[kind]}
        torch.save({"model": tensors, "epoch": 1} if kind == "ram" else tensors, tmp_path / f"{kind}.pth")
        found = identify(tmp_path / f"{kind}.pth")
        assert found.kind == kind
        with pytest.raises(CheckpointError, match=f"not OSEDiff weights; pass it as {kind.upper()}"):
            read_weights(tmp_path / f"{kind}.pth")


def test_tagger_of_another_kind(tmp_path):
    tensors = {"visual_encoder.patch_embed.proj.weight": torch.zeros(1), "label_embed": torch.zeros(9, 2)}
    torch.save({"model": tensors}, tmp_path / "x.pth")
    assert identify(tmp_path / "x.pth").what == "a RAM++ or other RAM-like tagger"


def test_related_project(tmp_path):
    torch.save(
        {"state_dict_unet": {}, "state_dict_vae": {}, "unet_lora_target_modules": []}, tmp_path / "x.pkl"
    )
    assert identify(tmp_path / "x.pkl").kind == "related_one_step"


def test_model_folder_and_its_parts(tmp_path):
    tiny_unet().save_pretrained(tmp_path / "unet")
    tiny_vae().save_pretrained(tmp_path / "vae")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    found = identify(tmp_path)
    assert (found.kind, found.what) == (
        "diffusers_folder",
        "a diffusers model folder of a v-prediction model",
    )
    assert found.details["unet"] == "UNet2DConditionModel"
    assert found.details["context_dim"] == 32
    assert identify(tmp_path / "unet" / "diffusion_pytorch_model.safetensors").details == {"part": "unet"}
    assert identify(tmp_path / "vae" / "diffusion_pytorch_model.safetensors").details == {"part": "vae"}
    json.dumps(describe(tmp_path))
    (tmp_path / "empty").mkdir()
    assert identify(tmp_path / "empty").kind == "unknown"


def test_large_checkpoint_is_not_read_into_memory(tmp_path):
    """A sparse 64 GiB file: reading its tensors would be noticed."""
    size = 2**36
    header = json.dumps(
        {
            "x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    assert identify(path).kind == "unknown"
    assert describe(path)["parameters"] == size


@pytest.mark.parametrize(
    "error", [OSError(12, "Cannot allocate memory"), MemoryError(), RuntimeError("unable to mmap 9 bytes")]
)
def test_want_of_memory_is_not_called_damage(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(tensor_file, "safe_open", refuse)
    file = tensor_file.TensorFile(tmp_path / "x.safetensors", "safetensors", {"x": (9,)})
    with pytest.raises(CheckpointError, match="needs more memory"):
        file.tensors()
    with pytest.raises(CheckpointError, match="needs more memory"):
        file.tensor("x")


def test_describe_osediff_weights(tmp_path):
    content = official_content(tiny_unet(), tiny_vae(), rank=8)
    torch.save(content, tmp_path / "w.pkl")
    write_weights(tmp_path / "w.safetensors", read_weights(tmp_path / "w.pkl"), dtype="fp16")
    for path, dtype in ((tmp_path / "w.pkl", "float32"), (tmp_path / "w.safetensors", "float16")):
        facts = describe(path)
        json.dumps(facts)
        count = len(content["state_dict_unet"]) + len(content["state_dict_vae"])
        assert (facts["kind"], facts["tensors"], facts["dtypes"]) == ("osediff", count, {dtype: count})
        weights = facts["weights"]
        assert (weights["rank_unet"], weights["scale_unet"], weights["conv_in"]) == (8, 1.0, True)
        assert weights["unet_modules"]["others"] == 16
        assert weights["missing"] == weights["unexpected"] == []
        assert facts["bytes"] == path.stat().st_size


def test_describe_another_checkpoint(tmp_path):
    safetensors.torch.save_file(sd_tensors(2048), tmp_path / "sdxl.safetensors")
    torch.save(sd_tensors(2048), tmp_path / "sdxl.ckpt")
    for name in ("sdxl.safetensors", "sdxl.ckpt"):
        facts = describe(tmp_path / name)
        assert (facts["kind"], facts["tensors"], facts["dtypes"]) == ("sd_checkpoint", 3, {"float32": 3})


@pytest.mark.parametrize("name", ["missing.pkl", "empty.pkl"])
def test_unreadable(tmp_path: Path, name):
    (tmp_path / "empty.pkl").touch()
    for function in (identify, describe):
        with pytest.raises(CheckpointError):
            function(tmp_path / name)
