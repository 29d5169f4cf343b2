"""OSEDiff as ComfyUI patches: they compose, stream and go away again."""

import gc
import weakref

import pytest
import torch
from node_graph import denoise, distance, encode, prompt, restore

CONV_IN = "diffusion_model.input_blocks.0.0.weight"


@pytest.fixture
def base(pack):
    """MODEL, CLIP, VAE without OSEDiff."""
    return pack.load.LoadOSEDiff.execute(pack.folders.EMBEDDED, pack.folders.NONE, 1.0, 1.0, "fp32").args


def weights_of(patcher):
    return {key: tensor.clone() for key, tensor in patcher.model.state_dict().items()}


def test_every_adapted_module_is_patched(pack, tiny):
    model, _, vae = tiny
    weights = pack.folders.read_chosen(pack.folders.EMBEDDED)
    assert len(model.patches) == len(weights.unet_lora) + 1  # conv_in's bias; its weight has two patches
    assert len(model.patches[CONV_IN]) == 2
    assert len(vae.patcher.patches) == len(weights.vae_lora)
    assert all(key.startswith(("encoder.", "quant_conv.")) for key in vae.patcher.patches)
    assert set(model.patches) <= set(model.model_state_dict())
    assert set(vae.patcher.patches) <= set(vae.patcher.model_state_dict())


def test_apply_equals_load(pack, tiny, base, photo):
    model, vae = pack.load.ApplyOSEDiff.execute(base[0], base[2], pack.folders.EMBEDDED, 1.0, 1.0).args
    applied, _ = restore(pack, (model, base[1], vae), photo, "barn")
    loaded, _ = restore(pack, tiny, photo, "barn")
    assert torch.equal(applied, loaded)


def test_what_was_given_stays_as_it_was(pack, base, generator, photo):
    """The base's MODEL and VAE are still the base's after the patched clones have been used, bit for bit."""
    import comfy.model_management

    model, clip, vae = base
    before, before_vae = weights_of(model), weights_of(vae.patcher)
    positive = prompt(pack, clip)
    latent, _ = encode(pack, photo, vae)
    patched, patched_vae = pack.native_lora.apply_weights(
        model, vae, pack.folders.read_chosen(pack.folders.EMBEDDED)
    )
    restore(pack, (patched, clip, patched_vae), photo)
    assert pack.native_lora.attachment_of(patched).timestep == generator.timestep
    comfy.model_management.load_models_gpu([model, vae.patcher])
    assert all(torch.equal(before[key], now) for key, now in weights_of(model).items())
    assert all(torch.equal(before_vae[key], now) for key, now in weights_of(vae.patcher).items())
    assert torch.equal(encode(pack, photo, vae)[0]["samples"], latent["samples"])
    assert positive[0][0].isfinite().all()


def test_other_patches_stay(pack, base, photo):
    """A patch made before, on conv_in of all places, still counts: the result is that of a base changed so."""
    import comfy.model_management

    model, _clip, vae = base
    weights = pack.folders.read_chosen(pack.folders.EMBEDDED)
    change = 0.01 * torch.randn(model.model.diffusion_model.input_blocks[0][0].weight.shape)
    with_lora = model.clone()
    with_lora.add_patches({CONV_IN: ("diff", (change,))}, 1.0)
    first, _ = pack.native_lora.apply_weights(with_lora, vae, weights)
    last = pack.native_lora.apply_weights(model, vae, weights)[0].clone()
    last.add_patches({CONV_IN: ("diff", (change,))}, 1.0)
    plain, _ = pack.native_lora.apply_weights(model, vae, weights)
    found = []
    for patcher in (first, last, plain):
        comfy.model_management.load_models_gpu([patcher])
        found.append(weights_of(patcher)[CONV_IN])
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert torch.allclose(found[0] - found[2], change, atol=1e-6)


@pytest.mark.parametrize(("first", "warned"), [(1.0, ["MODEL", "VAE"]), (0.0, [])])
def test_weights_put_on_twice_are_there_once_and_it_is_said(pack, base, caplog, first, warned):
    """What is between them stays; at strength 0 the first was the base alone, as a workflow may want it."""
    import comfy.model_management

    model, _, vae = base
    weights = pack.folders.read_chosen(pack.folders.EMBEDDED)
    once = pack.native_lora.apply_weights(model, vae, weights, 0.7, 0.7)
    changed, adapted = pack.native_lora.apply_weights(model, vae, weights, first, first)
    changed, adapted = pack.native_lora.scale_weights(changed, adapted, 0.5, 0.5)
    change = {CONV_IN: ("diff", (0.01 * torch.randn(once[0].model_state_dict()[CONV_IN].shape),))}
    for patcher in (changed, once[0]):
        patcher.add_patches(change, 1.0)
    caplog.clear()
    twice = pack.load.ApplyOSEDiff.execute(changed, adapted, pack.folders.EMBEDDED, 0.7, 0.7)
    said = [record.message for record in caplog.records]
    assert [
        kind for kind in ("MODEL", "VAE") for text in said if f"The {kind} had one-step" in text
    ] == warned
    assert (twice.ui["text"][0].split("\n") if twice.ui else []) == said
    for again, one in zip((twice.args[0], twice.args[1].patcher), (once[0], once[1].patcher), strict=True):
        comfy.model_management.load_models_gpu([again])
        expected = weights_of(again)
        comfy.model_management.load_models_gpu([one])
        assert all(torch.allclose(expected[key], now, atol=1e-6) for key, now in weights_of(one).items())


def test_streamed_weights_give_the_same(pack, tiny, base, photo):
    """A tiny budget, so that ComfyUI leaves weights off the device and patches each as it is needed."""

    model, clip, vae = tiny
    latent, _ = encode(pack, photo, vae)
    expected = denoise(pack, model, prompt(pack, clip), latent)["samples"]
    streamed, _ = pack.native_lora.apply_weights(
        base[0], base[2], pack.folders.read_chosen(pack.folders.EMBEDDED)
    )
    device = torch.device("cpu")
    streamed.load(device, lowvram_model_memory=64 << 10)
    try:
        layers = [m for m in streamed.model.modules() if getattr(m, "weight_function", None)]
        assert len(layers) > 40, "nothing is streamed"
        sampler, sigmas = pack.denoise.OSEDiffSampler.execute(streamed, 0, 0, 1.0).args
        found = _step(streamed, sampler, sigmas, prompt(pack, clip), latent["samples"])
        assert distance(found, expected) < 1e-4
    finally:
        streamed.detach()
    assert not any(getattr(m, "weight_function", None) for m in streamed.model.modules())


def _step(patcher, sampler, sigmas, positive, samples):
    """The sampler on a model as it is loaded at this moment, without ComfyUI's loading it anew."""
    import comfy.sampler_helpers
    import comfy.samplers

    model = patcher.model
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    guider.inner_model = model
    guider.conds = {name: [cond.copy() for cond in conds] for name, conds in guider.original_conds.items()}
    patcher.pre_run()
    return guider.inner_sample(
        torch.zeros_like(samples), samples, torch.device("cpu"), sampler, sigmas, None, None, True, None
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision(pack, tiny, photo, dtype):
    half = pack.load.LoadOSEDiff.execute(pack.folders.EMBEDDED, pack.folders.EMBEDDED, 1.0, 1.0, dtype).args
    wanted = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert half[0].model.get_dtype() == wanted and half[2].vae_dtype == wanted
    image, _ = restore(pack, half, photo, scale=2.0)
    expected, _ = restore(pack, tiny, photo, scale=2.0)
    assert 10 * torch.log10(1 / (image - expected).square().mean()) > 40


@pytest.mark.slow
def test_an_overflow_in_half_precision_is_computed_again_in_fp32(pack, photo, generator, caplog):
    """Values beyond fp16's 65504 in the UNet and the VAE: black or NaN pictures elsewhere."""
    model, clip, vae = pack.load.LoadOSEDiff.execute(
        pack.folders.EMBEDDED, pack.folders.EMBEDDED, 1.0, 1.0, "fp16"
    ).args
    model.model.manual_cast_dtype = None  # as on an accelerator; on the CPU ComfyUI computes in fp32
    largest = max(p.abs().max().item() for p in generator.unet.module.conv_in.parameters())
    # Skip connections carry what follows to the last group norm, which takes its scale away again.
    for name in ("weight", "bias"):
        model.add_patches(
            {f"diffusion_model.input_blocks.0.0.{name}": ("diff", (torch.zeros(()),))},
            0.0,
            strength_model=60000 / largest,
        )
        vae.patcher.add_patches(
            {f"decoder.conv_in.{name}": ("diff", (torch.zeros(()),))}, 0.0, strength_model=60000.0
        )
    latent, _ = encode(pack, photo, vae, scale=2.0)
    denoised = denoise(pack, model, prompt(pack, clip), latent)
    image = pack.decode.TiledDecode.execute(denoised, vae, 0, "adain", 1.0).args[0]
    assert denoised["samples"].isfinite().all() and image.isfinite().all()
    assert "denoise gave NaN or infinity in fp16" in caplog.text
    assert "decode gave NaN or infinity in fp16" in caplog.text
    assert model.model.get_dtype_inference() == torch.float16 == vae.vae_dtype


def test_memory_is_given_back(pack):
    """When a graph's results go, so do the networks, and nothing of ours holds on to them."""
    import comfy.model_management

    models = pack.load.LoadOSEDiff.execute(
        pack.folders.EMBEDDED, pack.folders.EMBEDDED, 1.0, 1.0, "auto"
    ).args
    image, _ = restore(pack, models, torch.rand(1, 8, 8, 3))
    alive = [
        weakref.ref(models[0].model),
        weakref.ref(models[1].cond_stage_model),
        weakref.ref(models[2].first_stage_model),
    ]
    del models
    comfy.model_management.unload_all_models()
    comfy.model_management.cleanup_models_gc()
    gc.collect()
    assert [ref() for ref in alive] == [None, None, None]
    assert image.isfinite().all()
