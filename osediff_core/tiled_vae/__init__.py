"""Exact tiled VAE: the whole image's result to float error, tile by tile, in bounded memory.

A VAE is local but for two things: its group norms take statistics over the whole image, and its mid-block attention
looks everywhere. So the network is taken apart at its group norms (`layers`, `plan`): between two of them the image is
swept over tile by tile (`walk`), the statistics of what comes out are summed up (`statistics`), and the features wait
for the next sweep in memory, or on disk beyond a budget (`features`). Attention holds the keys and values of the whole
latent and takes the queries tile by tile (`attention`). `stage` decides whether to do so, and how.
"""

from .layers import Network
from .stage import ATTENTIONS, AUTO, VAETiling, run

__all__ = ["ATTENTIONS", "AUTO", "Network", "VAETiling", "run"]
