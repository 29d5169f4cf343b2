"""The trainer of OSEDiff.

The method is here: `train` (a run), `steps` (the two losses), `vsd` (their mathematics), `networks` and `roles` (one
base, three roles), `draws`, `perceptual`, `config`, `validate`. The machinery of a run is in `run`, images and captions
in `data`, the tagger's training in `dape`, the embedded models' recipes in `recipes`, the paper's ablations in
`ablations`.
"""
