"""What does not go gives one sentence that says what is wrong and what to do."""

import copy

import pytest
import torch
from node_graph import decode, denoise, encode, prompt
from refusals import refused
from stock_nodes import run


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


@pytest.mark.parametrize("width", [768, 2048, 4096])
def test_prompts_of_another_family(pack, tiny, fails, photo, width):
    latent, _ = encode(pack, photo, tiny[2])
    right, wrong = prompt(pack, tiny[1]), [[torch.zeros(1, 77, width), {}]]
    with fails(f"at positive has {width} values a token, but this MODEL takes 64"):
        denoise(pack, tiny[0], wrong, latent)
    with fails("at negative has"):
        denoise(pack, tiny[0], right, latent, cfg=2.0, negative=wrong)
    with fails("at positive has"):
        step_as_sampler(pack, tiny[0], wrong, latent)


def step_as_sampler(pack, model, positive, latent, sigmas=None):
    sampler, own = pack.denoise.OSEDiffSampler.execute(model, 96, 32, 1.0).args
    guider = run("BasicGuider", model=model, conditioning=positive)
    return run(
        "SamplerCustomAdvanced",
        noise=run("DisableNoise"),
        guider=guider,
        sampler=sampler,
        sigmas=own if sigmas is None else sigmas,
        latent_image=latent,
    )


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (torch.rand(1, 16, 8, 8), "16 channels"),
        (torch.rand(1, 4, 8, 8), "4 channels"),
        (torch.rand(1, 8, 1, 8, 8), "as of video or sound"),
        (torch.rand(1, 8, 64), "as of video or sound"),
        (torch.rand(0, 8, 8, 8), "empty"),
        (None, "several parts"),
    ],
)
def test_latents_of_another_family(pack, tiny, fails, samples, words):
    with fails(words):
        decode(pack, {"samples": samples}, tiny[2])
    with fails(words):
        denoise(pack, tiny[0], prompt(pack, tiny[1]), {"samples": samples})


def test_models_and_vaes_that_are_none_or_of_another_kind(pack, tiny, fails, photo):
    model, clip, vae = tiny
    latent, _ = encode(pack, photo, vae)
    pixels = run("VAELoader", vae_name="pixel_space")
    with fails("this VAE takes 3"):
        decode(pack, latent, pixels)
    video = copy.copy(vae)
    video.latent_dim = 3
    for wrong, words in ((None, "no VAE"), (video, "for video")):
        with fails(words):
            encode(pack, photo, wrong)
        with fails(words):
            decode(pack, latent, wrong)
        with fails(words):
            pack.load.ApplyOSEDiff.execute(model, wrong, pack.folders.EMBEDDED, 1.0, 1.0)
        with fails(words):
            pack.fidelity.Fidelity.execute(model, wrong, 0.5)
    with fails("no MODEL"):
        denoise(pack, None, prompt(pack, clip), latent)
    with fails("no MODEL"):
        pack.denoise.OSEDiffSampler.execute(None, 96, 32, 1.0)
    with fails("no MODEL"):
        pack.load.ApplyOSEDiff.execute(None, vae, pack.folders.EMBEDDED, 1.0, 1.0)


@pytest.mark.parametrize("as_sampler", [False, True])
def test_conditioning_that_does_not_act(pack, tiny, fails, photo, as_sampler):
    latent, _ = encode(pack, photo, tiny[2])
    positive = prompt(pack, tiny[1])

    def step(conditioning):
        make = step_as_sampler if as_sampler else denoise
        return make(pack, tiny[0], conditioning, latent)

    later = run("ConditioningSetTimestepRange", conditioning=positive, start=0.0, end=0.5)
    nowhere = run(
        "ConditioningSetMask",
        conditioning=positive,
        mask=torch.zeros(1, 8, 8),
        strength=1.0,
        set_cond_area="default",
    )
    timestep = pack.native_lora.attachment_of(tiny[0]).timestep
    for wrong, words in ((later, f"at timestep {timestep}"), (nowhere, "does not act"), ([], "is empty")):
        with fails(words):
            step(wrong)
    whole, together = step(positive), step([*later, *positive])
    samples = [one["samples"] if isinstance(one, dict) else one for one in (whole, together)]
    assert torch.equal(*samples)


def test_a_negative_must_act_only_where_it_is_used(pack, tiny, fails, photo):
    latent, _ = encode(pack, photo, tiny[2])
    positive = prompt(pack, tiny[1])
    expected = denoise(pack, tiny[0], positive, latent)["samples"]
    assert torch.equal(denoise(pack, tiny[0], positive, latent, negative=[])["samples"], expected)
    with fails("at negative is empty"):
        denoise(pack, tiny[0], positive, latent, cfg=2.0, negative=[])


def test_where_no_prompt_acts_the_latents_stay_as_they_came(pack, tiny, photo, caplog):
    latent, _ = encode(pack, photo, tiny[2])
    positive = prompt(pack, tiny[1])
    right = torch.zeros(1, 128, 192)
    right[..., 96:] = 1
    half = run(
        "ConditioningSetMask", conditioning=positive, mask=right, strength=1.0, set_cond_area="default"
    )
    found = denoise(pack, tiny[0], half, latent)["samples"]
    assert torch.allclose(found[..., :22], latent["samples"][..., :22], atol=1e-5)
    whole = denoise(pack, tiny[0], positive, latent)["samples"]
    assert torch.allclose(found[..., 26:], whole[..., 26:], atol=1e-4)
    assert "acts on a part of the picture only" in caplog.text


@pytest.mark.parametrize("kind", ["v_prediction", "lcm", "x0"])
@pytest.mark.parametrize("before", [False, True])
def test_a_model_that_is_sampled_as_another_kind(pack, tiny, fails, photo, kind, before):
    model, vae = tiny[0], tiny[2]
    if before:
        model, _, vae = pack.load.LoadOSEDiff.execute(
            pack.folders.EMBEDDED, pack.folders.NONE, 1.0, 1.0, "fp32"
        ).args
    model = run("ModelSamplingDiscrete", model=model, sampling=kind, zsnr=False)
    if before:
        model, vae = pack.load.ApplyOSEDiff.execute(model, vae, pack.folders.EMBEDDED, 1.0, 1.0).args
    latent, _ = encode(pack, photo, vae)
    with fails("ModelSamplingDiscrete|schedule ends at"):
        denoise(pack, model, prompt(pack, tiny[1]), latent)


def test_another_schedule_is_said(pack, tiny, photo, caplog):
    latent, _ = encode(pack, photo, tiny[2])
    positive = prompt(pack, tiny[1])
    expected = denoise(pack, tiny[0], positive, latent)["samples"]
    same = run("ModelSamplingDiscrete", model=tiny[0], sampling="eps", zsnr=False)
    assert torch.equal(denoise(pack, same, positive, latent)["samples"], expected)
    assert "sigma is" not in caplog.text
    denoise(pack, run("ModelSamplingDiscrete", model=tiny[0], sampling="eps", zsnr=True), positive, latent)
    timestep = pack.native_lora.attachment_of(tiny[0]).timestep
    assert f"at timestep {timestep} sigma is" in caplog.text


@pytest.mark.parametrize(
    ("steps", "share", "words"), [(1, 1.0, "begin at timestep 999"), (4, 0.25, "after 4 steps")]
)
def test_sigmas_of_a_scheduler_are_said(pack, tiny, photo, caplog, steps, share, words):
    latent, _ = encode(pack, photo, tiny[2])
    sigmas = run("BasicScheduler", model=tiny[0], scheduler="normal", steps=steps, denoise=share)
    step_as_sampler(pack, tiny[0], prompt(pack, tiny[1]), latent, sigmas)
    assert words in caplog.text


def test_errors_are_named_alike_in_every_installation(pack):
    import osediff_core.errors
    import osediff_core.evaluate.metric

    def kinds(base):
        return {kind for kind in base.__subclasses__() for kind in (kind, *kinds(kind))}

    named = {f"{kind.__module__}.{kind.__qualname__}" for kind in kinds(pack.core.errors.OSEDiffError)}
    assert len(named) >= 8 and all(name.startswith("osediff_core.") for name in named)
    assert named <= {
        f"{kind.__module__}.{kind.__qualname__}" for kind in kinds(osediff_core.errors.OSEDiffError)
    }
    assert pack.core.errors.OSEDiffError.__module__ == "osediff_core.errors"


def test_the_folder_for_weights_is_made(pack, monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "osediff", ([], set()))
    pack.folders.register()
    assert (tmp_path / "models" / "osediff").is_dir()


@pytest.mark.parametrize(("count", "said"), [(1, "1 picture;"), (2, "2 pictures;")])
def test_one_picture_is_no_pictures(pack, fails, photo, count, said):
    with fails(f"There are 3 reference pictures for {said}"):
        pack.color.ColourFix.execute(photo.expand(count, -1, -1, -1), torch.rand(3, 8, 8, 3), "adain", 1.0)
