"""The size of the embedded tagger."""

from __future__ import annotations

from osediff_core.dape.config import TaggerConfig

# Patches of 16 px, not RAM's 4, and two stages: a sixteenth of the tokens for the same picture, so that some thousand
# crops can be seen ten times in half an hour of one core.
CONFIG = TaggerConfig(
    image_size=192,
    patch_size=16,
    swin_width=96,
    swin_depths=(2, 4),
    swin_heads=(3, 6),
    window_size=6,
    image_width=160,
    label_width=64,
    head_width=128,
    head_heads=4,
    head_layers=2,
    head_mlp_width=384,
    drop_path=0.05,
    dropout=0.0,
)
GRID = (
    CONFIG.image_size // CONFIG.patch_size // 2 ** (len(CONFIG.swin_depths) - 1)
)  # tokens a side at the end
