"""The Fidelity node sets on ComfyUI's MODEL and VAE what the core sets on its own."""

import pytest
import torch
from node_graph import decode, denoise, distance, encode, planes, prompt

from osediff_core.geometry import enlarge


@pytest.mark.parametrize("fidelity", [-1.0, 0.3, 1.0])
def test_it_is_the_core_s_slider(pack, tiny, generator, photo, fidelity):
    model, clip, vae = tiny
    found_model, found_vae, strength = pack.fidelity.Fidelity.execute(model, vae, fidelity).args
    latent, _ = encode(pack, photo, found_vae)
    restored = denoise(pack, found_model, prompt(pack, clip), latent, strength=strength)
    image = decode(pack, restored, found_vae, color_fix="none")
    lq, _ = enlarge(photo.movedim(-1, 1), None, (4 * photo.shape[2], 4 * photo.shape[1]))
    try:
        generator.set_fidelity(fidelity)
        expected = generator.restore(lq * 2 - 1)
    finally:
        generator.set_fidelity(0.0)
    assert distance(planes(image), expected) < 1e-4


def test_it_multiplies_what_was_there_and_leaves_what_it_was_given(pack, tiny, photo):
    model, _clip, vae = tiny
    before, _ = encode(pack, photo, vae)
    attachment = pack.native_lora.attachment_of
    once, once_vae, _ = pack.fidelity.Fidelity.execute(model, vae, 0.5).args
    _, twice_vae, _ = pack.fidelity.Fidelity.execute(once, once_vae, 0.5).args
    assert attachment(twice_vae.patcher).strength == pytest.approx(0.75**2)
    assert attachment(vae.patcher).strength == attachment(model).strength == 1
    assert torch.equal(encode(pack, photo, vae)[0]["samples"], before["samples"])


def test_a_vae_without_osediff_is_refused(pack, tiny):
    base = pack.load.LoadOSEDiff.execute(pack.folders.EMBEDDED, pack.folders.NONE, 1.0, 1.0, "fp32").args
    with pytest.raises(pack.core.errors.OptionError, match="This VAE has no OSEDiff weights"):
        pack.fidelity.Fidelity.execute(tiny[0], base[2], 0.5)
    with pytest.raises(pack.core.errors.OptionError, match="This MODEL has no OSEDiff weights"):
        pack.fidelity.Fidelity.execute(base[0], tiny[2], 0.5)
