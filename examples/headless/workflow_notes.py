"""What the example workflows are called, what their notes say, and where their nodes stand."""

from __future__ import annotations

from .workflow_about import BLUE, GREEN, ORANGE, PURPLE, About, Column, Group, compare, side_by_side

_SD21, _OSEDIFF = "v2-1_512-ema-pruned.safetensors", "osediff.pkl"
_GAN = "RealESRGAN_x4plus.safetensors"
_PHOTO = {"1": {"image": "osediff_barn.png"}}

_CHAIN_VIEWS = {
    "9": compare(["5", 1], ["7", 0]),
    **side_by_side(["5", 1], ["7", 0], "10", "11"),
}
_FULL_MODEL = """**SD 2.1** is far better than the small model inside: in *{loader}* choose **v2-1_512-ema-pruned** as \
**base** and **osediff.pkl** as **weights**; the node *Download OSEDiff weights* gets both."""
_FETCH = "The node *Download OSEDiff weights* gets them."
_SLIDER = "The slider of *Compare Images* needs Nodes 2.0; *Side by side* is for both kinds of nodes."

_CHAIN = (
    Column(280, (Group("Models", PURPLE, ("2", "3")), Group("Prompt", GREEN, ("4",)))),
    Column(280, (Group("Restore", ORANGE, ("5", "6", "7")),)),
)
_RESULT = (
    Column(320, (Group("Result", BLUE, ("8", "9")),)),
    Column(370, (Group("Side by side", BLUE, ("10", "11")),)),
)
_RESULT_HEIGHTS = {"1": 320, "4": 280, "8": 400, "9": 110, "11": 440}

ABOUT = {
    "restore_photo": About(
        "Restore a photo",
        "Run: the photo becomes 1024 pixels wide, by **width** in *Encode LQ*; with 0 there, **scale** counts. Choose one of "
        "yours in *Load Image*.\n\n" + _SLIDER + "\n\n" + _FULL_MODEL.format(loader="Load OSEDiff"),
        (Column(290, (Group("Picture", BLUE, ("1",)),)), *_CHAIN, *_RESULT),
        _RESULT_HEIGHTS,
        zoom=1.1,
        settings={**_PHOTO, "5": {"width": 1024}},
        views=_CHAIN_VIEWS,
    ),
    "one_box": About(
        "All in one node",
        "Run: the photo becomes 1024 pixels long, by **longest_side**; with 0 there, **scale** counts. *OSEDiff Upscale* is "
        "the chain of *Restore a photo* with its usual settings; its models stay loaded from one picture to the next."
        "\n\n" + _FULL_MODEL.format(loader="OSEDiff Upscale"),
        (
            Column(290, (Group("Picture", BLUE, ("1",)),)),
            Column(300, (Group("Restore", ORANGE, ("2",)),)),
            Column(420, (Group("Result", BLUE, ("3", "4")),)),
        ),
        {"1": 320, "2": 450, "3": 420, "4": 110},
        words=("one node", "after"),
        photo="plane.png",
        zoom=1.15,
        settings={"1": {"image": "osediff_plane.png"}, "2": {"longest_side": 1024}},
        views={"4": compare(["1", 0], ["2", 0])},
    ),
    "restore_4k_tiles": About(
        "Large pictures in tiles",
        "*One-Step Denoise* works in overlapping tiles, so that memory does not grow with the picture. Set **height** in "
        "*Encode LQ* to 3840 for 4K: with the small model a processor takes minutes.\n\n**tile** in *Encode LQ* and *Tiled "
        "Decode* bounds the VAE's memory, too; the result stays the same.\n\n"
        + _FULL_MODEL.format(loader="Load OSEDiff"),
        (Column(290, (Group("Picture", BLUE, ("1",)),)), *_CHAIN, *_RESULT),
        _RESULT_HEIGHTS,
        thumbnail="tiles",
        words=("before", "in tiles"),
        photo="lighthouse.png",
        settings={
            "1": {"image": "osediff_lighthouse.png"},
            "5": {"height": 1280, "width": 0, "tile": 0},
            "7": {"tile": 0},
        },
        views=_CHAIN_VIEWS,
    ),
    "folder": About(
        "A folder of pictures",
        "All pictures of a folder are restored one after the other; memory does not grow with their number. Four examples "
        "come with the pack: put a folder of yours into ComfyUI's **input**, press R and choose it.\n\n"
        + _FULL_MODEL.format(loader="Load OSEDiff"),
        (
            Column(290, (Group("Pictures", BLUE, ("1",)),)),
            *_CHAIN,
            Column(440, (Group("Results", BLUE, ("8",)),)),
        ),
        {"4": 280, "8": 620},
        thumbnail="mosaic",
        words=("every picture of a folder",),
    ),
    "video": About(
        "Restore a video",
        "Run: two seconds become 640 pixels wide, with their sound. Frames are restored one by one, so that memory does "
        "not grow with the length; the tagger looks once at each scene.\n\nChoose a video of yours in *Load Video*.\n\n"
        + _FULL_MODEL.format(loader="Load OSEDiff"),
        (
            Column(300, (Group("Video", BLUE, ("1",)),)),
            Column(280, (Group("Models", PURPLE, ("2", "3")),)),
            Column(290, (Group("Restore", ORANGE, ("4",)),)),
            Column(440, (Group("Result", BLUE, ("5",)),)),
        ),
        {"1": 300, "4": 400, "5": 470},
        thumbnail="film",
        settings={"1": {"video-preview": ""}},
    ),
    "degrade_restore_compare": About(
        "Degrade, restore, compare",
        "Run: *Degrade* makes a *good* picture four times smaller and bad, as Real-ESRGAN does for training; the chain "
        "restores it, *Evaluate* measures how near it comes. The sheet: bad, restored, original.\n\nAnother **seed** is "
        "another degradation; **light** and **jpeg** are milder.\n\n"
        + _FULL_MODEL.format(loader="Load OSEDiff"),
        (
            Column(290, (Group("Good picture", BLUE, ("1",)),)),
            Column(280, (Group("Made bad", GREEN, ("2", "13")), Group("Models", PURPLE, ("3", "4")))),
            Column(280, (Group("Prompt", GREEN, ("5",)), Group("Encode", ORANGE, ("6",)))),
            Column(280, (Group("Restore", ORANGE, ("7", "8")), Group("Result", BLUE, ("11",)))),
            Column(340, (Group("Sheet", BLUE, ("9", "10", "12")), Group("Measure", GREEN, ("14",)))),
        ),
        {"1": 312, "5": 280, "11": 258, "12": 190, "13": 106, "14": 190},
        thumbnail="strips",
        words=("made bad", "restored", "original"),
        photo="parrots.png",
        zoom=1.15,
        focus=0.72,
        settings={"1": {"image": "osediff_original.jpg"}},
    ),
    "stock_nodes": About(
        "With ComfyUI's own nodes",
        "Only the step itself and the colours are this pack's. *VAE Decode (Tiled)* fits in the same way.\n\nComfyUI's *VAE "
        "Encode* crops to multiples of 8 pixels and drops alpha; *Encode LQ* keeps both.\n\n"
        + _FULL_MODEL.format(loader="Load OSEDiff"),
        (
            Column(290, (Group("Picture", BLUE, ("1",)),)),
            Column(290, (Group("Models", PURPLE, ("2",)), Group("Enlarge, prompt", GREEN, ("3", "4")))),
            Column(
                280,
                (Group("Restore", ORANGE, ("5", "6", "7")), Group("Colours", GREEN, ("8",))),
            ),
            Column(420, (Group("Result", BLUE, ("9", "10")),)),
        ),
        {"1": 320, "4": 160, "9": 420, "10": 110},
        words=("VAE Encode", "VAE Decode"),
        zoom=1.6,
        settings=_PHOTO,
        views={"10": compare(["3", 0], ["8", 0])},
    ),
    "sd21_official": About(
        "SD 2.1 with the official weights",
        "The method as published: SD 2.1-base, osediff.pkl, and RAM with DAPE, which reads the prompt from the picture."
        "\n\n**Files** in ComfyUI's **models**: **checkpoints/v2-1_512-ema-pruned.safetensors**; "
        "**osediff/osediff.pkl**, **ram_swin_large_14m.pth**, **DAPE.pth**. " + _FETCH,
        (Column(290, (Group("Picture", BLUE, ("1",)),)), *_CHAIN, *_RESULT),
        _RESULT_HEIGHTS,
        thumbnail="models",
        words=("SD 2.1\n+ osediff.pkl\n+ RAM, DAPE",),
        photo="parrots.png",
        models={"2": (_SD21, _OSEDIFF), "3": ("ram_swin_large_14m.pth", "DAPE.pth")},
        settings=_PHOTO,
        views=_CHAIN_VIEWS,
    ),
    "two_stages": About(
        "Two stages, a GAN first",
        "A GAN enlarges the photo four times, then OSEDiff restores it at that size (**scale** 1): edges of the one, "
        "textures of the other.\n\n**File**: **RealESRGAN_x4plus.safetensors** in **models/upscale_models**; any upscale model "
        "will do.\n\n" + _FULL_MODEL.format(loader="Load OSEDiff"),
        (
            Column(290, (Group("Picture", BLUE, ("1",)), Group("1: GAN", ORANGE, ("12", "13")))),
            Column(280, (Group("Models", PURPLE, ("2", "3")), Group("Prompt", GREEN, ("4",)))),
            Column(280, (Group("2: OSEDiff", ORANGE, ("5", "6", "7")),)),
            *_RESULT,
        ),
        {**_RESULT_HEIGHTS, "1": 312, "12": 92},
        thumbnail="models",
        words=("1\nGAN\nx4", "2\nOSEDiff\nx1"),
        photo="lighthouse.png",
        zoom=1.3,
        models={"12": (_GAN,)},
        settings=_PHOTO,
        views=_CHAIN_VIEWS,
    ),
    "style_lora": About(
        "With a style LoRA",
        "A LoRA for SD 2.1 stands between *Load OSEDiff* and the chain; OSEDiff's own weights stay. **strength_model** "
        "says how much of the style is seen; above 1 the picture departs from the photo.\n\n**Files**: SD 2.1-base and "
        "osediff.pkl. " + _FETCH + " And a LoRA of yours in **models/loras**: choose it in *Load LoRA*.",
        (
            Column(290, (Group("Picture", BLUE, ("1",)), Group("Style", PURPLE, ("12",)))),
            *_CHAIN,
            *_RESULT,
        ),
        {**_RESULT_HEIGHTS, "1": 312},
        thumbnail="models",
        words=("OSEDiff", "+ style\nLoRA"),
        photo="plane.png",
        zoom=1.1,
        models={"2": (_SD21, _OSEDIFF)},
        settings=_PHOTO,
        views=_CHAIN_VIEWS,
    ),
    "two_methods": About(
        "Two methods side by side",
        "The same photo by OSEDiff and by PiSA-SR, and both in one picture. Any two of the methods that the pack reads can "
        "stand there: choose other **weights**.\n\n**Files**: SD 2.1-base in **models/checkpoints**; **osediff.pkl** and "
        "**pisa_sr.pkl** (of [csslc/PiSA-SR](https://github.com/csslc/PiSA-SR)) in **models/osediff**.",
        (
            Column(290, (Group("Picture", BLUE, ("1",)),)),
            Column(320, (Group("OSEDiff", ORANGE, ("2", "4")),)),
            Column(320, (Group("PiSA-SR", PURPLE, ("3", "5")),)),
            Column(480, (Group("Side by side", BLUE, ("6", "7")),)),
        ),
        {"1": 320, "2": 470, "3": 470, "4": 280, "5": 280, "7": 480},
        thumbnail="models",
        words=("OSEDiff", "PiSA-SR"),
        zoom=1.6,
        models={"2": (_SD21, _OSEDIFF), "3": (_SD21,)},
        settings={**_PHOTO, "2": {"longest_side": 1024}, "3": {"longest_side": 1024}},
    ),
    "methods_and_gan": About(
        "Methods beside a GAN",
        "The same photo by a GAN, by OSEDiff and by PiSA-SR, in one picture.\n\n**Files**: "
        "**RealESRGAN_x4plus.safetensors** in **models/upscale_models**; SD 2.1-base in **models/checkpoints**; **osediff.pkl** "
        "and **pisa_sr.pkl** (of [csslc/PiSA-SR](https://github.com/csslc/PiSA-SR)) in **models/osediff**.",
        (
            Column(280, (Group("Picture", BLUE, ("1",)),)),
            Column(290, (Group("GAN", GREEN, ("8", "9", "10")),)),
            Column(290, (Group("OSEDiff", ORANGE, ("2", "4")),)),
            Column(290, (Group("PiSA-SR", PURPLE, ("3", "5")),)),
            Column(370, (Group("Side by side", BLUE, ("6", "11", "7")),)),
        ),
        {"1": 320, "2": 470, "3": 470, "8": 92, "10": 300, "4": 260, "5": 260, "7": 330},
        thumbnail="models",
        words=("GAN", "OSEDiff", "PiSA-SR"),
        photo="parrots.png",
        zoom=1.8,
        models={"2": (_SD21, _OSEDIFF), "3": (_SD21,), "8": (_GAN,)},
        settings={**_PHOTO},
    ),
    "text_to_image": About(
        "Text to image (SD 2.1)",
        "*KSampler* paints with SD 2.1, *One-Step Denoise* restores its latent without decoding in between.\n\n**Files**: "
        "SD 2.1-base in **models/checkpoints**, **osediff.pkl** in **models/osediff**. "
        + _FETCH
        + " The small model inside "
        "cannot paint from text.",
        (
            Column(280, (Group("Base model", PURPLE, ("1",)),)),
            Column(280, (Group("Prompts", GREEN, ("2", "3")), Group("Size", BLUE, ("4",)))),
            Column(280, (Group("Paint", ORANGE, ("5",)), Group("OSEDiff", PURPLE, ("6",)))),
            Column(280, (Group("Restore", ORANGE, ("7", "8")),)),
            Column(400, (Group("Result", BLUE, ("9",)),)),
        ),
        {"1": 218, "2": 140, "3": 110, "6": 150, "9": 460},
        thumbnail="models",
        words=("text", "SD 2.1", "OSEDiff"),
        photo="barn.png",
        models={"1": (_SD21,), "6": (_OSEDIFF,)},
        settings={
            "1": {"base": _SD21, "weights": "none"},
            "5": {"cfg": 7.0},
            "6": {"weights": _OSEDIFF},
        },
    ),
}
