"""S3Diff, whose LoRA is made for each picture: by the layer's own equation, and one picture at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mini_models.methods import write_s3diff
from mini_models.networks import MiniModel
from refusals import refused
from torch import Tensor

from osediff_core import OneStepGenerator
from osediff_core.backends.load_base import load_base
from osediff_core.errors import CheckpointError, OptionError
from osediff_core.weights.checkpoint import read_weights
from osediff_core.weights.identify import identify


@pytest.fixture(scope="module")
def files(mini: MiniModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s3diff")
    base = load_base(mini.base, "fp32", "cpu")
    write_s3diff(folder, base.unet.module, base.vae.module)
    return folder


@pytest.fixture(scope="module")
def generator(mini: MiniModel, files: Path) -> OneStepGenerator:
    return OneStepGenerator.load(mini.base, files / "s3diff.pkl", dtype="fp32", device="cpu", keep_base=False)


def picture(seed: int, size: int = 24) -> Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(
    ("module", "block"),
    [
        ("down_blocks.1.resnets.0.conv1", 1),
        ("mid_block.attentions.0.proj_in", 4),
        ("up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k", 8),
        ("conv_out", 9),
    ],
)
def test_a_layer_gets_the_matrix_of_its_block(
    module: str, block: int, mini: MiniModel, files: Path, generator: OneStepGenerator
) -> None:
    """y = W x + scale B (M^T (A x))."""
    image = picture(1)
    generator.look_at(image)
    weights, base = read_weights(files / "s3diff.pkl"), load_base(mini.base, "fp32", "cpu").unet.module
    assert generator.prepare is not None
    matrix = generator.prepare.matrices("unet", generator.prepare.degradation(image))[block]
    a, b = weights.unet_lora[module]
    layer, plain = (m.get_submodule(module) for m in (generator.unet.module, base))
    x = torch.randn(1, a.shape[1], 6, 6) if a.ndim == 4 else torch.randn(1, 5, a.shape[1])
    inner = F.conv2d(x, a, padding=1 if a.shape[-1] == 3 else 0) if a.ndim == 4 else x @ a.T
    axis = 1 if a.ndim == 4 else 2
    turned = torch.einsum("kr,bk...->br...", matrix, inner) if axis == 1 else inner @ matrix
    added = F.conv2d(turned, b) if a.ndim == 4 else turned @ b.T
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), plain(x) + 2.0 * added, rtol=1e-4, atol=1e-4)


def test_each_picture_has_weights_of_its_own(generator: OneStepGenerator) -> None:
    lq = picture(2, 64)
    first = generator.restore(lq, source=picture(3))
    assert torch.equal(generator.restore(lq, source=picture(3)), first)
    other = generator.restore(lq, source=0.1 * picture(4))
    assert (other - first).abs().max() > 1e-3
    assert torch.equal(generator.restore(lq, source=picture(3)), first), (
        "nothing is left of the picture before"
    )
    own = generator.restore(lq, generator.method.default_prompt, source=picture(3))
    assert torch.equal(own, first) and not torch.equal(
        generator.restore(lq, "a cat", source=picture(3)), first
    )
    with refused(OptionError, "S3Diff takes one picture at a time"):
        generator.restore(lq.repeat(2, 1, 1, 1))


def test_files(files: Path, tmp_path: Path) -> None:
    assert (identify(files / "s3diff.pkl").kind, identify(files / "de_net.pth").kind) == (
        "s3diff",
        "estimator",
    )
    shutil.copy(files / "s3diff.pkl", tmp_path)
    with refused(CheckpointError, "put de_net.pth", "into the same folder"):
        read_weights(tmp_path / "s3diff.pkl")
    torch.save({"a": torch.zeros(1)}, tmp_path / "de_net.pth")
    with refused(CheckpointError, "de_net.pth is not the network that estimates degradations"):
        read_weights(tmp_path / "s3diff.pkl")
    net = torch.load(files / "de_net.pth", weights_only=True)
    torch.save({n: t for n, t in net.items() if n != "body.1.8.conv2.bias"}, tmp_path / "de_net.pth")
    with refused(CheckpointError, "de_net.pth is not whole", "body.1.8.conv2.bias"):
        read_weights(tmp_path / "s3diff.pkl")
    content = torch.load(files / "s3diff.pkl", weights_only=True)
    content["state_dict_vae_fuse_mlp"]["bias"] = torch.zeros(3)
    torch.save(content, tmp_path / "s3diff.pkl")
    with refused(CheckpointError, "is not whole as S3Diff's weights (vae.fuse_mlp.bias)"):
        read_weights(tmp_path / "s3diff.pkl")
