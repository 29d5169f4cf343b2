"""What the notes in the example workflows say, and what their columns are called."""

from __future__ import annotations

from typing import NamedTuple

_FULL_MODEL = """**For SD 2.1** (much better than the small embedded model), in *{loader}*:
- `base`: `v2-1_512-ema-pruned.safetensors`, in `models/checkpoints`
- `weights`: `osediff.pkl`, in `models/osediff`

The node *Download OSEDiff weights* fetches both, if you switch `allow_download` on."""


class About(NamedTuple):
    """title: of the note. text: Markdown. columns: titles of the groups, from left to right. loader: its title."""

    title: str
    text: str
    columns: list[str]
    loader: str = "Load OSEDiff"


ABOUT = {
    "restore_photo": About(
        "Restore a photo",
        "Choose your picture in *Load Image* and run. It comes back four times larger: change `scale` in *Encode LQ*; 1 "
        "restores without enlarging.\n\nWhat the picture shows can be said in *DAPE Prompt*; it may stay empty.",
        ["Picture and models", "Encode", "One step", "Decode", "Result"],
    ),
    "restore_4k_tiles": About(
        "4K, in tiles",
        "The picture becomes 3840 pixels wide (`width` in *Encode LQ*; the height follows). *One-Step Denoise* works in "
        "overlapping tiles, so its memory does not grow with the picture.\n\nThe VAE's `tile` of 512 pixels in *Encode LQ* "
        "and *Tiled Decode* bounds its memory, too, and changes the result slightly; with enough memory set both to 0.",
        ["Picture and models", "Encode", "One step", "Decode", "Result"],
    ),
    "text_to_image": About(
        "Text to image, then one step",
        "*KSampler* paints with the base model (OSEDiff at strength 0); *One-Step Denoise* restores its latent, which is "
        "not decoded in between.\n\nThe embedded model is far too small for text to image: expect colours and textures, "
        "no objects. With SD 2.1 it is a real picture; set `weights` in *Apply OSEDiff*, too.",
        ["Base model", "Prompts, OSEDiff", "Sample", "One step", "Decode", "Result"],
        loader="Load OSEDiff (strength 0: the base)",
    ),
    "stock_nodes": About(
        "With ComfyUI's own nodes",
        "Only the step itself and the colours are this pack's: resizing, prompt, encoding and decoding are ComfyUI's. "
        "*VAE Decode (Tiled)* fits in the same way.\n\nComfyUI's *VAE Encode* crops to multiples of 8 pixels and drops "
        "alpha; *Encode LQ* keeps both.",
        ["Picture and models", "Enlarge, prompt", "Encode", "One step", "Decode", "Colours", "Result"],
    ),
    "degrade_restore_compare": About(
        "Degrade, restore, compare",
        "Choose a *good* picture. *Degrade* makes it four times smaller and bad, as Real-ESRGAN does for training; the "
        "chain restores it at its old size, *Evaluate* measures how near it comes. The sheet shows the bad picture enlarged, "
        "the restored one and the original.\n\nAnother `seed` in *Degrade* is another degradation; `light` and `jpeg` are "
        "milder presets.",
        [
            "Picture and models",
            "Degrade",
            "Encode",
            "One step",
            "Decode",
            "Restored, measured",
            "Side by side",
            "Comparison",
        ],
    ),
    "folder": About(
        "A folder of pictures",
        "Make a folder `photos` in ComfyUI's `input` folder, put pictures of any size into it, press R and run. They are "
        "restored one after the other; memory does not grow with their number.\n\nVideo frames as one batch (from a video "
        "loader) work as well: connect it in place of the folder.",
        ["Pictures and models", "Encode", "One step", "Decode", "Results"],
    ),
    "one_box": About(
        "The whole chain in one node",
        "Choose your picture in *Load Image* and run. *OSEDiff Upscale* is the chain of the workflow *restore_photo* with "
        "its usual settings.\n\nFor many pictures with a large model connect *Load OSEDiff* to `model`, `clip` and `vae`: "
        "it then stays loaded.",
        ["Picture", "Restore", "Result"],
        loader="OSEDiff Upscale",
    ),
}


def note_for(about: About) -> str:
    """The note's Markdown."""
    return f"{about.text}\n\n{_FULL_MODEL.format(loader=about.loader)}\n"
