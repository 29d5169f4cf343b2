"""LoRA files of `osediff convert --to comfyui`, by ComfyUI's own loader, without anything of the pack on the model."""

import torch
from stock_nodes import run

from osediff_core.cli.main import main


def test_comfyui_loads_the_lora_by_itself(pack, generator, tmp_path):
    """Its UNet then predicts what the one with OSEDiff's weights merged does, conv_in's weight and bias included."""
    import comfy.model_management
    import folder_paths

    lora = tmp_path / "osediff_lora.safetensors"
    weights = generator_weights()
    assert main(["convert", str(weights), str(lora), "--to", "comfyui", "--base", "tiny", "--quiet"]) == 0
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    model = pack.load.LoadOSEDiff.execute(pack.folders.EMBEDDED, pack.folders.NONE, 1.0, 1.0, "fp32").args[0]
    patched = run("LoraLoaderModelOnly", model=model, lora_name=lora.name, strength_model=1.0)
    latents = torch.randn(1, generator.vae.latent_channels, 16, 16)
    context, timestep = generator.text(["a barn"]), torch.tensor([999])

    def predict(patcher):
        comfy.model_management.load_models_gpu([patcher])
        return patcher.model.diffusion_model(latents, timestep, context=context)

    wanted = generator.unet(latents, timestep, context)
    assert torch.allclose(predict(patched), wanted, atol=2e-5)
    assert (predict(model) - wanted).abs().max() > 0.1


def generator_weights():
    from osediff_core.backends.find_base import find_base

    return find_base("tiny").default_weights
