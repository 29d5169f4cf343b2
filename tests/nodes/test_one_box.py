"""OSEDiff Upscale by the rules of each method: prompts, guidance, and weights that are made for the picture."""

from __future__ import annotations

import pytest
import torch
from mini_models.methods import pisa_content, write_omgsr, write_s3diff

from osediff_core.backends.load_base import load_base


@pytest.fixture(scope="module")
def files(pack, mini, tmp_path_factory):
    import folder_paths

    folder = tmp_path_factory.mktemp("one_box")
    base = load_base(mini.base, "fp32", "cpu")
    torch.save(pisa_content(base.unet.module), folder / "boxed_pisa.pkl")
    write_omgsr(folder / "boxed_omgsr", base.unet.module, base.vae.module)
    write_s3diff(folder, base.unet.module, base.vae.module)
    (folder / "s3diff.pkl").rename(folder / "boxed_s3diff.pkl")
    folder_paths.add_model_folder_path(pack.folders.FOLDER, str(folder))
    return folder


def expanded(pack, weights, prompt=""):
    """The nodes by class, those of texts as a list."""
    found = pack.upscale.Upscale.execute(
        torch.zeros(1, 8, 8, 3), 4.0, "tiny (embedded)", weights, prompt, "adain", 1.0, 96
    ).expand
    by_class = {node["class_type"]: node["inputs"] for node in found.values()}
    texts = {
        key: node["inputs"]["text"] for key, node in found.items() if node["class_type"] == "CLIPTextEncode"
    }
    step = by_class["OSEDiff_Denoise"]
    return by_class, {side: texts.get(step[side][0]) for side in ("positive", "negative") if side in step}


@pytest.mark.parametrize("weights", ["boxed_pisa.pkl", "boxed_omgsr"])
def test_methods_without_words_get_an_empty_prompt_and_no_tags(pack, files, weights):
    nodes, texts = expanded(pack, weights)
    assert texts == {"positive": ""} and nodes["OSEDiff_Denoise"]["cfg"] == 1
    assert not {"OSEDiff_LoadDAPE", "OSEDiff_DAPEPrompt", "OSEDiff_Fit"} & nodes.keys()
    assert expanded(pack, weights, "a cat")[1] == {"positive": "a cat"}


def test_s3diff_gets_its_two_prompts_and_is_fitted_to_the_picture(pack, files):
    nodes, texts = expanded(pack, "boxed_s3diff.pkl")
    assert texts["positive"].startswith("A high-resolution, 8K") and texts["negative"].startswith(
        "oil painting"
    )
    assert nodes["OSEDiff_Denoise"]["cfg"] == pytest.approx(1.07)
    fit = nodes["OSEDiff_Fit"]
    assert fit["model"][1] == 0 and fit["vae"][1] == 2  # of Load OSEDiff
    assert (
        nodes["OSEDiff_EncodeLQ"]["vae"]
        == nodes["OSEDiff_Decode"]["vae"]
        == [nodes["OSEDiff_EncodeLQ"]["vae"][0], 1]
    )
    assert nodes["OSEDiff_Denoise"]["model"] == [nodes["OSEDiff_EncodeLQ"]["vae"][0], 0]


def test_osediff_is_tagged_as_before(pack):
    nodes, texts = expanded(pack, "tiny (embedded)", "a cat")
    assert texts == {"positive": None} and nodes["OSEDiff_DAPEPrompt"]["extra_prompt"] == "a cat"
    assert nodes["OSEDiff_Denoise"]["cfg"] == 1 and "OSEDiff_Fit" not in nodes
