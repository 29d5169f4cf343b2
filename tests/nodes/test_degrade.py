"""The Degrade node: what it adds to the core's function."""

import torch


def test_old_graphs_do_as_before_and_official_differs(pack):
    degrade = pack.degrade.Degrade.execute
    torch.manual_seed(2)
    image = torch.rand(2, 40, 48, 3)
    lq, parameters = degrade(image, "realesrgan", 4.0, 3, True).args
    same, _ = degrade(image, "realesrgan", 4.0, 3, True, False).args
    official, words = degrade(image, "realesrgan", 4.0, 3, True, True).args
    assert lq.shape == (2, 40, 48, 3) and torch.equal(lq, same) and not torch.equal(lq, official)
    assert len(parameters.splitlines()) == 2 and "DiffJPEG" in words and "DiffJPEG" not in parameters


def test_every_preset_keeps_alpha(pack):
    alpha = torch.ones(1, 40, 48, 1)
    alpha[:, :, 24:] = 0
    image = torch.cat([torch.rand(1, 40, 48, 3), alpha], -1)
    for preset in pack.core.degrade.PRESETS:
        lq, _ = pack.degrade.Degrade.execute(image, preset, 4.0, 0, False).args
        assert lq.shape == (1, 10, 12, 4)
        assert lq[..., :5, 3].min() > 0.99 and lq[..., 7:, 3].max() < 0.01
