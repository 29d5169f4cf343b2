"""A small tagger with random weights that tell pictures apart, for the tests of DAPE's training."""

import torch

from osediff_core.dape import TaggerConfig, TaggerNetwork, TaggerWeights, write_tagger

MINI = TaggerConfig(
    image_size=32,
    patch_size=4,
    swin_width=16,
    swin_depths=(2, 2),
    swin_heads=(2, 4),
    window_size=4,
    image_width=24,
    label_width=8,
    head_width=16,
    head_heads=4,
    head_mlp_width=32,
    tags=tuple(range(40, 60)),
    thresholds=(0.5,) * 20,
)


def mini_network(seed=0):
    torch.manual_seed(seed)
    network = TaggerNetwork(MINI).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and not name.startswith("label_embed"):
                parameter.mul_(3)  # transformers starts at 0.02, where every picture looks the same
    return network


def write_mini_tagger(path):
    write_tagger(path, TaggerWeights.from_network(mini_network()))
    return path
