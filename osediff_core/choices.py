"""Names that the command's options, the nodes' inputs and the core share; here, as help must not wait for torch.

Where a module can be imported without torch, it has its names itself: color.METHODS, tiles.grid.GRIDS,
evaluate.metrics.METRICS.
"""

TINY = "tiny"  # the embedded base, and the embedded tagger
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # our name -> torch's
JPEG_QUALITY = 95
LEAST_VAE_MEMORY = 64 * 2**20  # bytes; within less, or in smaller tiles, the VAE takes very long
LEAST_VAE_TILE = 64  # px
VAE_ATTENTIONS = ("auto", "exact", "pooled")
# degrade/presets/NAME.yaml
DEGRADATIONS = ("realesrgan", "light", "jpeg", "blur", "codeformer", "bsrgan", "bsrgan_plus")
LORA_LAYOUTS = ("diffusers", "comfyui")  # weights.lora_layouts.LAYOUTS
TAG_LANGUAGES = {"en": "ram_tag_list.txt", "zh": "ram_tag_list_chinese.txt"}  # language -> RAM's list in it
