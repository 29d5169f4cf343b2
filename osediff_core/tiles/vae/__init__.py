"""Exact tiled VAE: the whole image's result to float error, tile by tile, in bounded memory.

A VAE is local but for two things: its group norms take statistics over the whole image, and its mid-block attention
looks everywhere. So the network is taken apart at its group norms (`plan`): between two of them the image is
swept over tile by tile (`walk`), the statistics of what comes out are summed up (`statistics`), and the features wait
for the next sweep in memory, or beyond a budget on disk (`features`, `spill`). Attention holds the keys and values of
the whole latent, or pooled ones where exact attention would take too long, and takes the queries tile by tile
(`attention`). `stage` decides whether to do so, and how.
"""

from .stage import AUTO, VAETiling, run

__all__ = ["AUTO", "VAETiling", "run"]
