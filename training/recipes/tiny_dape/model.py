"""The size of the embedded tagger."""

from __future__ import annotations

from osediff_core.dape.config import TaggerConfig

# Patches of 8 px, not RAM's 4: a quarter of the tokens for the same picture. Patches of 16 px are cheaper still, but
# learnt less in the same time.
CONFIG = TaggerConfig(
    image_size=192,
    patch_size=8,
    swin_width=64,
    swin_depths=(2, 4, 2),
    swin_heads=(2, 4, 8),
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
# tokens a side at the end
GRID = CONFIG.image_size // CONFIG.patch_size // 2 ** (len(CONFIG.swin_depths) - 1)
