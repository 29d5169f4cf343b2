"""The embedded model `tiny`: SD's own classes at a few million parameters, trained from scratch on free photographs.

Flow: `fetch_photos` -> `train` (vae -> prior -> onestep -> export) -> `tiles`, and further by training/train.py with
training/configs/tiny_further.yaml -> `evaluate`.
"""
