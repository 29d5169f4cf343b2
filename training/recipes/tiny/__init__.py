"""The embedded model `tiny`: SD's own classes at a few million parameters, trained on free photographs.

Flow: `fetch_photos` -> `pairs` (of the `teacher`) -> `train` (vae -> distil -> pixels -> prior -> export) ->
`evaluate`; further rounds of the one-step weights are training/train.py with training/configs/tiny_round.yaml.
"""
