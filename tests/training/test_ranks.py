"""LoRA at another rank, and runs that start from weights of another rank or of the base."""

import pytest
import torch

from osediff_core.errors import OptionError
from osediff_core.weights.formats import osediff
from osediff_core.weights.one_step_weights import LoRAPair, OneStepWeights
from training.config import ModelConfig
from training.networks import build_networks
from training.ranks import at_ranks


def update(lora, name):
    a, b = lora[name]
    return lora.scale * b.flatten(1) @ a.flatten(1)


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    shapes = {"linear": ((12,), ()), "conv": ((6, 3, 3), (1, 1)), "narrow": ((2,), ())}
    pairs = {
        name: LoRAPair(
            torch.randn(6, *into, generator=generator),
            torch.randn(5 if name != "narrow" else 3, 6, *ones, generator=generator),
        )
        for name, (into, ones) in shapes.items()
    }
    vae = {"encoder.conv_in": LoRAPair(torch.randn(4, 3), torch.randn(8, 4))}
    return OneStepWeights("osediff", (osediff.lora(pairs, 6),), osediff.lora(vae, 4))


def test_a_lower_rank_is_the_nearest(weights):
    found = at_ranks(weights, 2, 4)
    assert found.rank_unet == 2 and found.unet_lora.scale == 4 and found.vae_lora is weights.vae_lora
    for name, pair in weights.unet_lora.items():
        whole, low = update(weights.unet_lora, name), update(found.unet_lora, name)
        values = torch.linalg.svdvals(whole)
        assert pair.A.shape[1:] == found.unet_lora[name].A.shape[1:] and len(found.unet_lora[name].A) == 2
        # Eckart and Young: what is lost are the other singular values
        torch.testing.assert_close((whole - low).norm(), values[2:].norm(), atol=1e-4, rtol=1e-4)


def test_a_higher_rank_and_a_narrow_layer_are_the_same(weights):
    for rank in (9, 5):
        found = at_ranks(weights, rank, 4, seed=3)
        names = list(weights.unet_lora) if rank == 9 else ["narrow"]
        for name in names:
            torch.testing.assert_close(
                update(found.unet_lora, name), update(weights.unet_lora, name), atol=1e-4, rtol=1e-4
            )
            assert len(found.unet_lora[name].A) == rank
    again = at_ranks(weights, 9, 4, seed=3)
    torch.testing.assert_close(again.unet_lora["conv"].A, at_ranks(weights, 9, 4, seed=3).unet_lora["conv"].A)
    assert bool((again.unet_lora["conv"].A[6:] != 0).all())  # so that B can learn
    assert at_ranks(weights, 6, 4).unet_lora is weights.unet_lora


def test_the_bases_own_weights_at_their_rank_and_another():
    own = build_networks(
        ModelConfig(base="tiny", start_from="base", rank_unet=32, rank_vae=32), torch.device("cpu")
    )
    low = build_networks(
        ModelConfig(base="tiny", start_from="base", rank_unet=4, rank_vae=4, tune_vae="none"),
        torch.device("cpu"),
    )
    one, other = (networks.weights({}) for networks in (own, low))
    assert one.timestep == other.timestep != 999
    name = max(one.unet_lora, key=lambda name: float(update(one.unet_lora, name).norm()))
    kept = update(other.unet_lora, name).norm() / update(one.unet_lora, name).norm()
    assert 0.3 < float(kept) <= 1
    assert one.vae_lora and not other.vae_lora


def test_a_base_without_weights(mini_base):
    with pytest.raises(OptionError, match="has no weights of its own"):
        build_networks(ModelConfig(base=str(mini_base), start_from="base"), torch.device("cpu"))
