"""What does not go gives one sentence that says what is wrong and what to do."""

import pytest
import torch
from node_graph import decode, denoise, encode, prompt
from refusals import refused


@pytest.fixture
def fails(pack):
    """`with fails("words"):` an error of ours, of one sentence, with these words in it."""
    return lambda match: refused(pack.core.errors.OSEDiffError, match=match)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (1, 0, 8, 3), (1, 8, 8, 2), (8, 8, 3)])
def test_no_picture(pack, tiny, fails, shape):
    with fails("channels"):
        encode(pack, torch.rand(shape), tiny[2])


def test_nan(pack, tiny, fails, photo):
    broken = photo.clone()
    broken[0, 3, 3] = torch.nan
    with fails("NaN"):
        encode(pack, broken, tiny[2])


def test_too_large(pack, tiny, fails, photo):
    with fails("megapixels"):
        encode(pack, photo, tiny[2], width=16384 * 4, height=16384)


def test_model_without_osediff(pack, fails, photo):
    model, clip, vae = pack.load.LoadOSEDiff.execute(
        pack.folders.EMBEDDED, pack.folders.NONE, 1.0, 1.0, "auto"
    ).args
    latent, _ = encode(pack, photo, vae)
    with fails("Apply OSEDiff"):
        denoise(pack, model, prompt(pack, clip), latent)
    with fails("Apply OSEDiff"):
        pack.denoise.OSEDiffSampler.execute(model, 96, 32, 1.0)


def test_a_guider_with_another_model_than_the_samplers(pack, tiny, fails, photo):
    import comfy.samplers

    base, clip, vae = pack.load.LoadOSEDiff.execute(
        pack.folders.EMBEDDED, pack.folders.NONE, 1.0, 1.0, "fp32"
    ).args
    sampler, sigmas = pack.denoise.OSEDiffSampler.execute(tiny[0], 96, 32, 1.0).args
    guider = comfy.samplers.CFGGuider(base)
    guider.set_conds(*[prompt(pack, clip)] * 2)
    samples = encode(pack, photo, vae)[0]["samples"]
    with fails("Apply OSEDiff"):
        guider.sample(torch.zeros_like(samples), samples, sampler, sigmas)


@pytest.mark.parametrize(("tile", "overlap"), [(32, 32), (32, 40)])
def test_impossible_tiles(pack, tiny, fails, photo, tile, overlap):
    latent, _ = encode(pack, photo, tiny[2])
    with fails("overlap"):
        denoise(pack, tiny[0], prompt(pack, tiny[1]), latent, tile=tile, overlap=overlap)


def test_guidance_without_negative(pack, tiny, fails, photo):
    latent, _ = encode(pack, photo, tiny[2])
    with fails("negative"):
        denoise(pack, tiny[0], prompt(pack, tiny[1]), latent, cfg=2.0)


def test_latents_of_another_vae(pack, tiny, fails):
    with fails("VAE that belongs"):
        denoise(pack, tiny[0], prompt(pack, tiny[1]), {"samples": torch.rand(1, 4, 8, 8)})


def test_regional_prompts_with_tiles(pack, tiny, fails, photo):
    latent, _ = encode(pack, photo, tiny[2])
    (embeds, extra), *_ = prompt(pack, tiny[1])
    regional = [[embeds, {**extra, "area": (8, 8, 0, 0), "strength": 1.0}]]
    with fails("area"):
        denoise(pack, tiny[0], regional, latent, tile=16, overlap=8)
    assert denoise(pack, tiny[0], regional, latent, tile=0)["samples"].isfinite().all()


def test_references_that_do_not_fit(pack, tiny, fails, photo):
    latent, _ = encode(pack, photo, tiny[2])
    with fails("reference pictures"):
        decode(pack, latent, tiny[2], reference=torch.rand(3, 8, 8, 3))


def test_missing_files(pack, fails):
    with fails(r"There is no file gone\.pkl .*osediff.*github"):
        pack.load.LoadOSEDiff.execute(pack.folders.EMBEDDED, "gone.pkl", 1.0, 1.0, "auto")
    with fails("There is no file gone.safetensors"):
        pack.load.LoadOSEDiff.execute("gone.safetensors", pack.folders.NONE, 1.0, 1.0, "auto")


@pytest.fixture
def weights_file(pack):
    """write(name, content) puts a file where Load OSEDiff finds it."""
    folder = pack.output / pack.folders.FOLDER
    folder.mkdir(exist_ok=True)

    def write(name, content):
        torch.save(content, folder / name)
        return name

    return write


def test_weights_for_another_base(pack, fails, weights_file):
    """Official weights in kind, for a UNet of another size: nothing is loaded, and the message stays readable."""
    from mini_models.checkpoints import official_content
    from mini_models.networks import tiny_unet, tiny_vae

    name = weights_file("other.pkl", official_content(tiny_unet(), tiny_vae()))
    with fails("other.pkl does not fit this base") as error:
        pack.load.LoadOSEDiff.execute(pack.folders.EMBEDDED, name, 1.0, 1.0, "auto")
    assert len(str(error.value)) < 1500


def test_a_pickle_with_code_is_not_opened(pack, fails, weights_file):
    import pathlib

    name = weights_file("evil.pkl", {"state_dict_unet": pathlib.PurePosixPath("x")})
    with fails("not opened"):
        pack.load.LoadOSEDiff.execute(pack.folders.EMBEDDED, name, 1.0, 1.0, "auto")


def test_not_a_unet_and_v_prediction(pack, tiny, fails):
    import comfy.model_base

    model, _, vae = tiny
    weights = pack.folders.read_chosen(pack.folders.EMBEDDED)
    kept = model.model.model_type
    try:
        model.model.model_type = comfy.model_base.ModelType.V_PREDICTION
        with fails("512-pixel"):
            pack.native_lora.apply_weights(model, vae, weights)
    finally:
        model.model.model_type = kept
    config = model.model.model_config
    kept = config.unet_config
    try:
        config.unet_config = {"image_model": "flux"}
        with fails("not Stable Diffusion's UNet"):
            pack.native_lora.apply_weights(model, vae, weights)
    finally:
        config.unet_config = kept
