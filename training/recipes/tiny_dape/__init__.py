"""The embedded tagger `tiny DAPE`: RAM's own classes at three million parameters, distilled on free photographs.

Flow: `fetch_photos` -> `class_tags` (its result is here) -> `label` -> `train` -> `calibrate` -> `evaluate`; then
`training.dape.train` with configs/dape_tiny.yaml makes it robust.
"""
