"""The embedded model `tiny`: SD's own classes at a few million parameters, trained on free photographs.

Flow: `fetch_photos` -> `pairs` (of the `teacher`) -> `train` (vae -> distil -> pixels -> prior -> export) ->
`evaluate`; further rounds of the one-step weights are training/train.py with training/configs/tiny_round.yaml.

    python -m training.recipes.tiny.fetch_photos --out photos
    python -m training.recipes.tiny.pairs --photos photos --teacher runs/teacher --out runs/pairs
    git worktree add ../first 0fee1c1                       # the first embedded model, to start the restorer from
    torchrun --nproc_per_node 2 -m training.recipes.tiny.train --photos photos --pairs runs/pairs --out runs/tiny \\
        --grow ../first/osediff_core/tiny --kodak photos/kodak                  # hours of CPU; goes on where it stopped
    python -m training.recipes.tiny.evaluate --base runs/tiny/export --real-pairs DIR --kodak photos/kodak \\
        --teacher runs/teacher/realesrgan_x4plus.safetensors --sheet sheet.jpg

A forward and backward pass of the UNet on eight windows of 32 x 32 latents takes 0.32 CPU-seconds (79 GFLOP at 250
GFLOP/s, bf16, one thread of an AVX-512 core), one through encoder, decoder and features on six windows 0.8.
"""
