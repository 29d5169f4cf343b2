"""S3Diff's file: LoRA of the UNet and the VAE's encoder that is modulated for each picture, and what modulates it.

The network that estimates a picture's degradation is a file of its own, de_net.pth, which is read from beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import CheckpointError
from ...method import Method
from ...passes import Pass
from ..decoder_file import check_whole
from ..one_step_weights import LoRASet, OneStepWeights
from ..tensor_file import Shape, TensorFile
from . import osediff, peft_names
from .format import Format
from .osediff import CONV_IN

METHOD = "s3diff"
ESTIMATOR = "de_net.pth"
_POSITIVE = (
    "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."
)
_NEGATIVE = "oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, oversmooth"
_GUIDANCE = 1.07
_PARTS = ("unet", "vae")
_MLPS = ("de_mlp", "block_mlp", "fuse_mlp")
_KEYS = {
    *(f"state_dict_{part}" for part in _PARTS),
    *(f"state_dict_{part}_{mlp}" for part in _PARTS for mlp in _MLPS),
    *(f"rank_{part}" for part in _PARTS),
    "w",
    "state_embeddings",
}


def recognise(file: TensorFile) -> bool:
    """By the keys of its dict."""
    return isinstance(file.content, Mapping) and _KEYS <= set(file.content)


def is_estimator(file: TensorFile) -> bool:
    """Whether a file holds the network that estimates degradations (MM-RealSR's)."""
    return {"conv_first.0.weight", "fc_degree.0.0.weight", "fc_degree.1.2.bias"} <= set(file.shapes)


def read(file: TensorFile) -> OneStepWeights:
    """The weights and, in `extra`, what modulates them. Raises CheckpointError where de_net.pth is not beside it."""
    unet = osediff.state_dict(file, "state_dict_unet")
    conv_in = {n: unet.pop(f"conv_in.{n}") for n in CONV_IN if f"conv_in.{n}" in unet}
    missing = [f"unet conv_in.{name}" for name in CONV_IN if name not in conv_in]
    sets, unexpected = [], []
    for part, tensors in (("unet", unet), ("vae", osediff.state_dict(file, "state_dict_vae"))):
        pairs, lacks, strange = peft_names.pairs_of(tensors)
        rank = osediff.rank(file.path, file.content, f"rank_{part}")
        sets.append(LoRASet(pairs, rank=rank, scale=osediff.lora_scale(rank)))
        missing += [f"{part} {name}" for name in lacks]
        unexpected += [f"{part} {name}" for name in strange]
    return OneStepWeights(
        METHOD,
        (sets[0],),
        sets[1],
        conv_in,
        {"timestep": "999", "prediction_type": "epsilon", "base": ABOUT.base},
        str(file.path),
        missing,
        unexpected,
        extra={**_modulating(file), **_estimator(file)},
    )


def _modulating(file: TensorFile) -> dict[str, Tensor]:
    embeddings, w = file.content["state_embeddings"], file.content["w"]
    found: dict[str, Any] = {"w": w}
    for part in _PARTS:
        for mlp in _MLPS:
            named = osediff.state_dict(file, f"state_dict_{part}_{mlp}")
            found |= {f"{part}.{mlp}.{name}": tensor for name, tensor in named.items()}
        block = embeddings.get(f"state_dict_{part}_block") if isinstance(embeddings, Mapping) else None
        found[f"{part}.block.weight"] = block.get("weight") if isinstance(block, Mapping) else None
    shapes = {name: tuple(t.shape) for name, t in found.items() if isinstance(t, Tensor)}
    wanted = {"w": (64,), **{name: shape for part in _PARTS for name, shape in _shapes(file, part).items()}}
    if shapes != wanted:
        odd = [name for name in {**wanted, **found} if shapes.get(name) != wanted.get(name)]
        raise CheckpointError(
            f"{file.path} is not whole as S3Diff's weights ({', '.join(odd)}); download it again."
        )
    return found


def _shapes(file: TensorFile, part: str) -> dict[str, tuple[int, ...]]:
    square = osediff.rank(file.path, file.content, f"rank_{part}") ** 2
    blocks = {"unet": 10, "vae": 6}[part]
    return {
        f"{part}.de_mlp.0.weight": (256, 256),
        f"{part}.de_mlp.0.bias": (256,),
        f"{part}.block_mlp.0.weight": (64, 64),
        f"{part}.block_mlp.0.bias": (64,),
        f"{part}.fuse_mlp.weight": (square, 320),
        f"{part}.fuse_mlp.bias": (square,),
        f"{part}.block.weight": (blocks, 64),
    }


def _estimator(file: TensorFile) -> dict[str, Tensor]:
    path = file.path.with_name(ESTIMATOR)
    if not path.is_file():
        raise CheckpointError(
            f"{file.path} needs the network that estimates a picture's degradation; put {ESTIMATOR}, from "
            "assets/mm-realsr of S3Diff's repository, into the same folder."
        )
    estimator = TensorFile.open(path)
    if not is_estimator(estimator):
        raise CheckpointError(f"{path} is not the network that estimates degradations; download it again.")
    check_whole(f"{path} is not whole", estimator.tensors(), _estimator_shapes())
    return {f"estimator.{name}": tensor for name, tensor in estimator.tensors().items()}


def _estimator_shapes() -> dict[str, Shape]:
    """Of each branch: a convolution, six residual blocks, a strided convolution, two more blocks, two linear layers."""
    shapes: dict[str, Shape] = {}
    for branch in range(2):
        shapes[f"conv_first.{branch}.weight"] = (64, 3, 3, 3)
        for layer in (0, 1, 2, 3, 4, 5, 7, 8):
            width = 64 if layer < 6 else 128
            for conv in ("conv1", "conv2"):
                shapes[f"body.{branch}.{layer}.{conv}.weight"] = (width, width, 3, 3)
        shapes[f"body.{branch}.6.weight"] = (128, 64, 3, 3)
        shapes[f"fc_degree.{branch}.0.weight"] = (512, 128)
        shapes[f"fc_degree.{branch}.2.weight"] = (1, 512)
    return shapes | {n.replace(".weight", ".bias"): shape[:1] for n, shape in shapes.items()}


def _modulation(weights: OneStepWeights) -> object:
    from ...modulation import Modulation

    return Modulation(weights)


ABOUT = Method(
    title="S3Diff",
    base="sd-turbo",
    prompt="fixed: its own positive and negative one, with guidance 1.07",
    reads_words=False,
    default_prompt=_POSITIVE,
    color_fix="wavelet",
    licence="Apache-2.0; of its base SD-Turbo Stability AI's own",
    source="https://github.com/ArcticHare105/S3Diff",
    advice=f"It needs {ESTIMATOR} in the same folder. SD-Turbo cannot be told from SD 2.1-base: give the right one.",
    # e_negative + guidance (e_positive - e_negative)
    passes=lambda: (Pass(_GUIDANCE), Pass(1 - _GUIDANCE, prompt=_NEGATIVE)),
    prepare=_modulation,
)
FORMAT = Format(METHOD, "S3Diff weights", recognise, read, about=ABOUT)
