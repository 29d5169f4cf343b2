"""A teacher's result as a target: models that spandrel reads, and files that are none."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

pytest.importorskip("spandrel", reason="the train extra is not installed")

from osediff_core.errors import OptionError
from training.losses.teacher import Teacher, teacher_loss


@pytest.fixture(scope="module")
def network():
    """A small Compact network (SRVGGNetCompact) that enlarges twice."""
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    torch.manual_seed(0)
    return SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=2).eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_models_own_result_of_the_small_image(network, suffix, tmp_path):
    path = tmp_path / f"teacher{suffix}"
    if suffix == ".pth":
        torch.save({"params_ema": network.state_dict()}, path)  # as Real-ESRGAN's files
    else:
        save_file(network.state_dict(), path)
    lq = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = Teacher(path)(lq)
    small = F.interpolate((lq + 1) / 2, (16, 24), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        expected = network(small).clamp(0, 1) * 2 - 1
    torch.testing.assert_close(found, expected)


def test_the_loss_moves_the_image_towards_the_target_alone(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "t.safetensors")
    teacher = Teacher(tmp_path / "t.safetensors")
    image = torch.zeros(1, 3, 16, 16, requires_grad=True)
    target = teacher(torch.rand(1, 3, 16, 16))
    loss = teacher_loss(image, target)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(target.abs().mean()))
    torch.testing.assert_close(image.grad, -target.sign() / image.numel())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_size_that_the_scale_does_not_divide(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "t.safetensors")
    assert Teacher(tmp_path / "t.safetensors")(torch.rand(1, 3, 33, 31)).shape == (1, 3, 33, 31)


class Evil:
    def __reduce__(self):
        return (print, ("code was run",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_that_are_no_teacher(tmp_path, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"params": Evil()}))
    torch.save({"params": Evil()}, tmp_path / "evil2.pth")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name, words in [
        ("none.pth", "There is no teacher"),
        ("evil.pth", "code"),
        ("evil2.pth", "code"),
        ("foreign.safetensors", "no model that spandrel knows"),
        ("empty.pth", "no model that spandrel knows"),
    ]:
        with pytest.raises(OptionError, match=words) as caught:
            Teacher(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert "code was run" not in capsys.readouterr().out
