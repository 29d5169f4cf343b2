"""Published files of one-step methods that do not run here: what they are, what they need, and where they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from .tensor_file import TensorFile


class OtherMethod(NamedTuple):
    """kind: the method's name. what, use: as in `identify.Identity`. licence: of the published weights."""

    kind: str
    what: str
    needs: str
    code: str
    licence: str
    recognise: Callable[[TensorFile], bool]

    @property
    def use(self) -> str:
        """What it needs and where it runs."""
        return f"it needs {self.needs} and does not run here but in its own code, {self.code}"

    @property
    def details(self) -> dict[str, Any]:
        """For `osediff info`."""
        return {"method": self.kind, "needs": self.needs, "source": self.code, "licence": self.licence}


def _keys(file: TensorFile) -> set[str]:
    """Of a torch file's dict."""
    return {str(key) for key in file.content} if isinstance(file.content, Mapping) else set()


def _plain(names: Iterable[str]) -> set[str]:
    """Names without what wrappers of a network put before them."""
    leads = ("module.", "model.", "ema_model.", "_orig_mod.")
    plain = set()
    for name in names:
        while name.startswith(leads):
            name = name.partition(".")[2]
        plain.add(name)
    return plain


def _has(file: TensorFile, *wanted: str) -> bool:
    return _plain(file.shapes).issuperset(wanted)


def _any(file: TensorFile, *parts: str) -> bool:
    return any(all(part in name for part in parts) for name in file.shapes)


def _codsr(file: TensorFile) -> bool:
    return {"state_dict_sft", "unet_lora_encoder_modules_default"} <= _keys(file)


def _tvt(file: TensorFile) -> bool:
    unet = file.content.get("state_dict_unet") if isinstance(file.content, Mapping) else None
    own = isinstance(unet, Mapping) and any(str(name).startswith("up_blocks.4.") for name in unet)
    return own or _any(file, "vaeDe4.")  # a fifth level, and the VAE with a factor of 4


def _invsr(file: TensorFile) -> bool:
    first = next((s for n, s in file.shapes.items() if n.endswith("conv_in.weight")), ())
    own = _any(file, "time_embedding.linear_1.weight") and not _any(file, "attn2")
    return own and first[1:2] == (3,)  # reads an image, where a diffusion UNet reads latents


def _sinsr(file: TensorFile) -> bool:
    return _has(file, "input_blocks.0.0.weight") and _any(file, "relative_position_bias_table")


def _vq(file: TensorFile) -> bool:
    return _has(file, "quantize.embedding.weight", "encoder.conv_in.weight", "decoder.conv_in.weight")


def _tsdsr(file: TensorFile) -> bool:
    lora = bool(file.shapes) and all("lora_" in name for name in file.shapes)
    own = _any(file, "transformer.proj_out.lora_") or _any(file, "transformer.pos_embed.proj.lora_")
    return lora and (own or _any(file, "transformer.encoder.conv_in.lora_"))


def _vosr(file: TensorFile) -> bool:
    return _has(file, "x_embedder.proj.weight", "t_embedder.mlp.0.weight", "blocks.0.attn.qkv.weight")


OTHER_METHODS = (
    OtherMethod(
        "codsr",
        "weights of CODSR",
        "SD 2.1-base, its tagger DAPE and a UNet of its own making",
        "https://github.com/Chanson94/CODSR",
        "none given by its authors",
        _codsr,
    ),
    OtherMethod(
        "tvt",
        "a file of TVT",
        "its three own files (UNet, VAE of factor 4, weights), SD 2.1-base's text encoder and DAPE",
        "https://github.com/Joyies/TVT",
        "Apache-2.0",
        _tvt,
    ),
    OtherMethod(
        "invsr",
        "a noise predictor such as InvSR's",
        "SD-Turbo",
        "https://github.com/zsyOAOA/InvSR",
        "S-Lab 1.0, non-commercial",
        _invsr,
    ),
    OtherMethod(
        "sinsr",
        "a network of SinSR or ResShift",
        "their autoencoder, autoencoder_vq_f4.pth,",
        "https://github.com/wyf0912/SinSR",
        "CC BY-NC-SA 4.0",
        _sinsr,
    ),
    OtherMethod(
        "sinsr",
        "a VQ autoencoder such as SinSR's and ResShift's",
        "their network, SinSR_v2.pth for example,",
        "https://github.com/wyf0912/SinSR",
        "CC BY-NC-SA 4.0",
        _vq,
    ),
    OtherMethod(
        "tsd-sr",
        "a LoRA of TSD-SR",
        "Stable Diffusion 3 medium, the other of its two files and its two prompt embeddings",
        "https://github.com/Microtreei/TSD-SR",
        "Apache-2.0",
        _tsdsr,
    ),
    OtherMethod(
        "vosr",
        "a diffusion transformer such as VOSR's",
        "its args.json, DINOv2 and a VAE",
        "https://github.com/cswry/VOSR",
        "Apache-2.0",
        _vosr,
    ),
)


def other_method(file: TensorFile) -> OtherMethod | None:
    """The method that a file is of, if it is one of these."""
    return next((method for method in OTHER_METHODS if method.recognise(file)), None)
