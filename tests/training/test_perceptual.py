import pytest
import torch
from safetensors.torch import save_file

from osediff_core.errors import OptionError
from training.perceptual import perceptual_loss

ALEX = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


@pytest.fixture(scope="module")
def alex_state():
    """As torchvision publishes it, with random numbers in it."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for index, (out, into, side) in ALEX.items():
        weight = torch.randn(out, into, side, side, generator=generator) / (into * side * side) ** 0.5
        state |= {f"features.{index}.weight": weight, f"features.{index}.bias": torch.zeros(out)}
    return state | {"classifier.1.weight": torch.zeros(3, 2)}


@pytest.fixture(scope="module")
def alex_file(alex_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "alex.pth"
    torch.save(alex_state, path)
    return path


@pytest.fixture
def pictures():
    return torch.rand(2, 3, 2, 64, 64, generator=torch.Generator().manual_seed(0)).movedim(2, 1) * 2 - 1


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained'", "ignore:Arguments other than a weight enum")
def test_lpips_is_the_packages_own_with_these_weights(alex_state, alex_file, pictures):
    import lpips

    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)  # linear layers from the wheel
    flat = {f"features.{key.partition('.')[2]}": tensor for key, tensor in theirs.net.state_dict().items()}
    with torch.no_grad():
        for key, tensor in flat.items():
            tensor.copy_(alex_state[key])
    image, reference = pictures
    expected = theirs(image, reference).flatten()
    assert expected.min() > 0
    torch.testing.assert_close(perceptual_loss("lpips-alex", alex_file)(image, reference), expected)


def test_reads_safetensors(alex_state, alex_file, pictures, tmp_path):
    save_file(alex_state, tmp_path / "alex.safetensors")
    ours = perceptual_loss("lpips-alex", tmp_path / "alex.safetensors")
    torch.testing.assert_close(ours(*pictures), perceptual_loss("lpips-alex", alex_file)(*pictures))


@pytest.mark.parametrize("name", ["lpips-alex", "efficientnet-lite0", "none"])
def test_only_the_image_gets_a_gradient(name, alex_file, pictures):
    loss = perceptual_loss(name, alex_file)
    image, reference = (picture.clone().requires_grad_() for picture in pictures)
    out = loss(image, reference)
    assert out.shape == (2,)
    assert not loss.training and not any(p.requires_grad for p in loss.parameters())
    out.sum().backward()
    assert reference.grad is None
    assert image.grad is not None and (bool(image.grad.abs().sum() > 0) == (name != "none"))
    zero = loss(reference.detach(), reference.detach())
    torch.testing.assert_close(zero, torch.zeros(2), atol=1e-6, rtol=0)


def test_nothing_is_downloaded_unasked(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(OptionError, match=r"perceptual_weights.*allow_download") as caught:
        perceptual_loss("lpips-vgg")
    assert "\n" not in str(caught.value)


def test_torch_hubs_cache_is_used(monkeypatch, tmp_path, alex_file, pictures):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(alex_file.read_bytes())
    expected = perceptual_loss("lpips-alex", alex_file)(*pictures)
    torch.testing.assert_close(perceptual_loss("lpips-alex")(*pictures), expected)


def test_weights_that_do_not_fit(alex_state, tmp_path):
    path = tmp_path / "half.pth"
    torch.save({key: tensor for key, tensor in alex_state.items() if "0" not in key}, path)
    with pytest.raises(OptionError, match="does not hold torchvision's weights of alex"):
        perceptual_loss("lpips-alex", path)
    with pytest.raises(OptionError, match="does not exist"):
        perceptual_loss("lpips-alex", tmp_path / "none.pth")


def test_unknown_name():
    with pytest.raises(OptionError, match="lpips-vgg"):
        perceptual_loss("lpips-vgg16")
