"""Other one-step methods on ComfyUI's own classes: the numbers of their official codes, 1e-4 relative, in fp32."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from golden_cases import Golden, peer_cases
from node_graph import denoise, distance, encode, planes, prompt
from refusals import refused

TOLERANCE = 1e-4
SCALE = 0.18215

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")


@pytest.fixture(scope="module", autouse=True)
def offered(pack, peers):
    """The methods' files in a folder of the pack's."""
    import folder_paths

    folder_paths.add_model_folder_path(pack.folders.FOLDER, str(peers))
    assert {"pisa_sr.pkl", "HYPIR_sd2.pth", "omgsr"} <= set(pack.folders.weights_choices())


@pytest.fixture(scope="module")
def base(pack, mini, tmp_path_factory):
    """MODEL, CLIP, VAE of the miniature that the numbers were made with."""
    import comfy.supported_models

    folder = tmp_path_factory.mktemp("native") / "mini"
    shutil.copytree(mini.base, folder)
    preview = {"factors": [[0.1, 0.1, 0.1]] * 4, "bias": [0, 0, 0]}
    (folder / "vae" / "latent_rgb.json").write_text(json.dumps(preview))
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patched:
        # ComfyUI's UNet of SD 2 has heads of 64 channels and 32 groups; the miniature has 16, in its middle 8, and 8
        patched.setitem(comfy.supported_models.SD20.unet_extra_config, "num_head_channels", 16)
        loaded = pack.native_folder.load_folder(folder, torch.float32)
    unet = loaded[0].model.diffusion_model
    for module in unet.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = 8
    block = unet.middle_block[1].transformer_blocks[0]
    for attention in (block.attn1, block.attn2):
        attention.heads, attention.dim_head = 8, 8
    return loaded


@pytest.fixture
def golden(request):
    return Golden(request.param)


def applied(pack, base, name, method="auto"):
    return pack.load.ApplyOSEDiff.execute(base[0], base[2], name, 1.0, 1.0, method).args


def picture(golden):
    return golden["input_u8"][None].float() / 255


def decoded(pack, latent, vae):
    return pack.decode.TiledDecode.execute(latent, vae, 0, "none", 1.0).args[0]


@pytest.mark.parametrize("golden", peer_cases("pisa_h"), indirect=True)
def test_pisa_sr(pack, base, peers, golden):
    model, vae = applied(pack, base, "pisa_sr.pkl")
    latent, _ = encode(pack, picture(golden), vae, scale=1.0)
    assert distance(latent["samples"] * SCALE, golden["lq_latent"]) < TOLERANCE
    empty = prompt(pack, base[1])
    restored = denoise(pack, model, empty, latent)
    assert distance(restored["samples"] * SCALE, golden["x_denoised"]) < TOLERANCE
    assert distance(planes(decoded(pack, restored, vae)), golden["output"]) < TOLERANCE
    for key in (key for key in golden if key.startswith("x_denoised_p")):
        pixel, semantic = map(float, key.removeprefix("x_denoised_p").split("_s"))
        adjusted = pack.sliders.PixelSemantic.execute(model, pixel, semantic).args[0]
        found = denoise(pack, adjusted, empty, latent)
        assert distance(found["samples"] * SCALE, golden[key]) < TOLERANCE, key
    again = denoise(pack, model, empty, latent)
    assert torch.equal(again["samples"], restored["samples"]), "the sliders' passes leave the MODEL as it was"


@pytest.mark.parametrize("golden", peer_cases("pisa_tiled"), indirect=True)
def test_pisa_sr_in_tiles(pack, base, peers, golden):
    model, vae = applied(pack, base, "pisa_sr.pkl")
    tile, overlap, *_ = golden.path.stem.split("tiled")[1].split("_")
    sliders = golden.path.stem.rsplit("_p", 1)[1:]
    if sliders:
        model = pack.sliders.PixelSemantic.execute(model, *map(float, sliders[0].split("_s"))).args[0]
    latent, _ = encode(pack, picture(golden), vae, scale=1.0)
    found = denoise(pack, model, prompt(pack, base[1]), latent, tile=int(tile), overlap=int(overlap))
    assert distance(found["samples"] * SCALE, golden["x_denoised"]) < TOLERANCE


@pytest.mark.parametrize("golden", peer_cases("omgsr"), indirect=True)
def test_omgsr_s(pack, base, peers, golden):
    model, vae = applied(pack, base, "omgsr")
    tile, overlap, *_ = [*golden.path.stem.partition("tiled")[2].split("_"), "0", "0"]
    tiles = {"tile": int(tile), "overlap": int(overlap)} if tile else {"tile": 0}
    latent, _ = encode(pack, picture(golden), vae, scale=1.0)
    assert distance(latent["samples"], golden["posterior_mean"]) < TOLERANCE
    restored = denoise(pack, model, prompt(pack, base[1]), latent, **tiles)
    assert distance(restored["samples"] * SCALE, golden["x_denoised"]) < TOLERANCE
    assert distance(planes(decoded(pack, restored, vae)), golden["output"]) < TOLERANCE


@pytest.mark.parametrize("golden", peer_cases("hypir"), indirect=True)
def test_hypir(pack, base, peers, golden):
    report = json.loads(golden.path.with_name("report_hypir.json").read_text(encoding="utf-8"))
    args = report[golden.path.name]["args"]
    tile, stride = args["patch_size"] // 8, args["stride"] // 8
    model, _ = applied(pack, base, "HYPIR_sd2.pth", "hypir")
    latent = {"samples": golden["posterior_mean"]}
    words = prompt(pack, base[1], args["prompt"])
    found = denoise(pack, model, words, latent, tile=tile, overlap=tile - stride)
    assert distance(found["samples"], golden["x_denoised_unscaled"]) < TOLERANCE


@pytest.mark.parametrize("golden", peer_cases("adcsr_mini"), indirect=True)
def test_adcsr(pack, peers, golden):
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    model = pack.direct.LoadUpscaler.execute("net_params_200.pkl", "halfDecoder.ckpt", "fp32").args[0]
    expected = golden["output01"].movedim(0, -1)[None]
    stock = ImageUpscaleWithModel.execute(model, picture(golden)).args[0]
    assert distance(stock, expected) < TOLERANCE
    own = pack.direct.OneStepUpscale.execute(model, picture(golden), 4.0, 96, 32).args[0]
    assert distance(own, expected) < TOLERANCE


@pytest.mark.parametrize("golden", peer_cases("s3diff"), indirect=True)
def test_s3diff(pack, base, peers, golden):
    about = pack.inputs.methods()["s3diff"]
    positive, negative = about.default_prompt, about.passes()[1].prompt
    model, vae = applied(pack, base, "s3diff.pkl")
    with refused(pack.core.errors.OptionError, "S3Diff makes its weights for each picture", "Fit to Picture"):
        encode(pack, picture(golden), vae)
    model, vae = pack.fit.FitToPicture.execute(model, vae, picture(golden)).args
    enlarged = golden["enlarged"]
    height, width = enlarged.shape[-2:]
    padded = torch.nn.functional.pad(enlarged, (0, -width % 64, 0, -height % 64), mode="reflect")
    latent, _ = encode(pack, padded.movedim(1, -1), vae, scale=1.0)
    assert distance(latent["samples"] * SCALE, golden["lq_latent"]) < TOLERANCE
    words = (prompt(pack, base[1], text) for text in (positive, negative))
    restored = denoise(pack, model, next(words), latent, cfg=1.07, negative=next(words))
    assert distance(restored["samples"] * SCALE, golden["x_denoised"]) < TOLERANCE
