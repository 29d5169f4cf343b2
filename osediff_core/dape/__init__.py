"""Tags for pictures: RAM (Recognize Anything, Swin-L), DAPE, its LoRA for degraded pictures, and smaller ones alike.

Tag pictures (float tensors in [-1, 1], any size):

    tagger = Tagger.load("ram_swin_large_14m.pth", "DAPE.pth")     # or Tagger.load("ram_dape.safetensors")
    for tags in tagger.tag(images):                                # Tag(name, score, index), in the list's order
        prompt = prompt_of(tags, "my words")

Both official files in one of half precision, with the LoRA kept apart, so that RAM alone can still be had
(`Tagger.load(path, dape=False)`, for captions of good pictures):

    write_tagger("ram_dape.safetensors", read_tagger("ram_swin_large_14m.pth", "DAPE.pth", merge=False), "fp16")

A tagger of another size: every number is in `TaggerConfig`, which travels in the file's metadata.

    config = TaggerConfig(image_size=192, swin_width=48, ..., tags=(3, 17, ...), thresholds=(0.5, 0.6, ...))
    network = TaggerNetwork(config)                # initialised for training; network(pixels) -> logits (B, tags)
    pixels = preprocess(images, config.image_size) # images (B, 3, H, W) in [-1, 1]
    weights = TaggerWeights.from_network(network)
    weights.metadata["trained_on"] = "..."         # strings for readers of the file
    write_tagger("small.safetensors", weights, "fp16")
    tagger = Tagger.load("small.safetensors")      # or Tagger(network.eval()) without a file
"""

from .config import TaggerConfig
from .network import TaggerNetwork
from .preprocess import preprocess
from .tagger import Tagger, fitting_prompt, prompt_of
from .tags import Tag, tag_names, tag_thresholds
from .weights import TaggerWeights, read_tagger, write_tagger

__all__ = [
    "Tag",
    "Tagger",
    "TaggerConfig",
    "TaggerNetwork",
    "TaggerWeights",
    "fitting_prompt",
    "preprocess",
    "prompt_of",
    "read_tagger",
    "tag_names",
    "tag_thresholds",
    "write_tagger",
]
