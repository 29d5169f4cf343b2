"""The trainer of OSEDiff.

The method is here: `train` (a run, and its iteration), `steps` (the two losses), `regularisers` with `vsd` and
`discriminator` (what pulls the generator towards good images), `networks` and `roles` (one base, three roles), `draws`,
`perceptual`, `config`, `validate`, `export`. The machinery of a run is in `run`: `Run` is what its parts are made with,
`loop` trains whatever step it is given, on whatever data. Images and captions are in `data`, the tagger's training in
`dape`, the embedded models' recipes in `recipes`, the paper's ablations in `ablations`.
"""
