"""A tagger's weights: read from RAM's and DAPE's official files or our .safetensors, checked, merged, written."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, OptionError, counted
from ..runtime.device import short_name
from ..weights.identify import TAGGER_FORMAT, identify_file
from ..weights.one_step_weights import LoRAPair
from ..weights.tensor_file import Shape, TensorFile
from ..weights.write_file import sorted_safetensors, stored_dtype, write_file
from .config import TaggerConfig
from .layout import to_network, to_official
from .lora import factor_shapes, lora_modules, merged, pairs_of, rank_of
from .network import TaggerNetwork, empty_network
from .official import official_shapes

logger = logging.getLogger(__name__)

FORMAT_VERSION = "1"
_WANTED = "RAM's weights (ram_swin_large_14m.pth) or a tagger written by osediff convert (.safetensors)"
_DAPE_WANTED = "DAPE's weights (DAPE.pth)"
_PLUS_PLUS = 51 * 4585  # rows of RAM++'s label_embed: 51 descriptions of each tag
_ENCODER_B = re.compile(r"tag_encoder\.encoder\.layer\.[01]\.crossattention\..*lora_B$")


@dataclass
class TaggerWeights:
    """tensors by their official names (366 for RAM); lora: DAPE's pairs by module, not merged, {} if there are none.

    adapted: whether DAPE is merged into the tensors. metadata: strings for a file's reader. source: for messages.
    """

    config: TaggerConfig
    tensors: dict[str, Tensor]
    lora: dict[str, LoRAPair] = field(default_factory=dict)
    adapted: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    source: str = "this tagger"

    @classmethod
    def from_network(cls, network: TaggerNetwork) -> TaggerWeights:
        """The weights of a network, to be written. They share its memory where they can."""
        return cls(network.config, to_official(network))

    def network(self) -> TaggerNetwork:
        """A network that holds these tensors themselves, in evaluation mode; their LoRA is not in it."""
        network = empty_network(self.config).requires_grad_(False).eval()
        # not strict: transformers 4 keeps the index of relative positions, which is computed, in its state
        network.load_state_dict(to_network(self.tensors, network), strict=False, assign=True)
        return network


def read_tagger(
    path: str | os.PathLike[str],
    dape: bool | str | os.PathLike[str] = True,
    *,
    dtype: torch.dtype | None = None,
    merge: bool = True,
    config: TaggerConfig | None = None,
) -> TaggerWeights:
    """A tagger from `ram_swin_large_14m.pth` or our .safetensors, on the CPU.

    dape: the path of DAPE.pth; or True for the LoRA inside the .safetensors, if it has one; or False for RAM alone,
    as captions of good pictures are made. dtype: of the tensors; None is fp32. merge: add the LoRA to the
    tensors, in fp32 before they are cast; otherwise it is kept in `lora`. config: what a file without metadata of ours
    was built from, RAM's if not given.
    Only the tensors that tagging uses are read, in pieces. Raises CheckpointError, one sentence, for a file that is
    missing, damaged, of another model, not whole, or that holds NaN.
    """
    path = Path(path)
    file = TensorFile.open(path, _WANTED)
    config = _config(file, config)
    shapes = official_shapes(config)
    stored = _official_names(file)
    _check_shapes(path, shapes, {name: file.shapes[own] for name, own in stored.items()})
    lora = _lora(file, dape, config, shapes)
    weights = TaggerWeights(config, {}, metadata=dict(file.metadata), source=path.name)
    official = {own: name for name, own in stored.items() if name in shapes}
    # all memory that stays is taken first: what is needed only for a moment would otherwise leave holes between
    weights.tensors = {
        name: torch.empty(shapes[name], dtype=dtype or torch.float32) for name in official.values()
    }
    for own, tensor in file.in_pieces(official):
        name = official[own]
        module = name.removesuffix(".weight")
        _check_finite(path, name, tensor)
        if merge and module in lora and name.endswith(".weight"):
            tensor = merged(module, tensor, lora[module])
        weights.tensors[name].copy_(tensor)
        _check_cast(path, name, weights.tensors[name])
    weights.adapted = merge and bool(lora)
    weights.lora = {} if merge else lora
    return weights


def write_tagger(
    path: str | os.PathLike[str], weights: TaggerWeights, dtype: torch.dtype | str | None = None
) -> None:
    """Write our .safetensors, whole or not at all: the official names, the configuration as metadata, the LoRA beside.

    dtype ("fp32", "fp16", "bf16" or torch's) casts the tensors, but for the small LoRA, which stays fp32; None keeps
    them. Raises CheckpointError for another suffix, values that overflow `dtype`, or a disk that does not take it.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(
            f"{path} must end in .safetensors, the only format that taggers are written in."
        )
    if os.path.isdir(path):
        raise CheckpointError(f"{path} is a folder; give the name of a file.")
    stored = stored_dtype(dtype)
    tensors = {name: _cast(path, name, tensor, stored) for name, tensor in weights.tensors.items()}
    for module, pair in weights.lora.items():
        for factor, tensor in zip("AB", pair, strict=True):
            tensors[f"{module}.lora_{factor}"] = tensor.detach().float().contiguous()
    metadata = {
        **weights.metadata,
        "format": TAGGER_FORMAT,
        "version": FORMAT_VERSION,
        "config": weights.config.to_json(),
        "dape": "merged" if weights.adapted else "lora" if weights.lora else "none",
    }
    write_file(path, sorted_safetensors(tensors, metadata))


def _cast(path: Path, name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    out = tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
    _check_cast(path, name, out)
    return out


def _check_cast(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.dtype == torch.float16 and not _finite(tensor):  # bf16 reaches as far as fp32
        raise CheckpointError(
            f"{path}: {name} has values too large for {short_name(tensor.dtype)}; use fp32 or bf16."
        )


def _finite(tensor: Tensor) -> bool:
    """Without the temporary copies of torch.isfinite: both extremes are NaN if any value is."""
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))


def _config(file: TensorFile, given: TaggerConfig | None) -> TaggerConfig:
    """The tagger's configuration: our files have it as metadata, an official one is RAM. Raises CheckpointError."""
    if file.metadata.get("format") == TAGGER_FORMAT:
        version = file.metadata.get("version", "unknown")
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{file.path} has format version {version}, this program reads version {FORMAT_VERSION}; update it or "
                "convert the file again."
            )
        try:
            return TaggerConfig.from_json(file.metadata.get("config", ""))
        except OptionError as error:
            raise CheckpointError(f"{file.path}: {str(error).rstrip('.')}; convert it again.") from error
    lora = [name for name in file.shapes if "lora_" in name]
    if len(lora) == len(file.shapes) or not any(n.startswith("visual_encoder.") for n in file.shapes):
        identity = identify_file(file)
        use = "give RAM's weights beside it" if identity.kind == "dape" else f"give {_WANTED}"
        raise CheckpointError(f"{file.path} is {identity.what}, not a tagger; {use}.")
    if file.shapes.get("label_embed", ())[:1] == (_PLUS_PLUS,):
        raise CheckpointError(f"{file.path} is RAM++, which works differently; give {_WANTED}.")
    return given or TaggerConfig()


def _official_names(file: TensorFile) -> dict[str, str]:
    """Official name -> the file's own: RAM's first releases call the tagging head vision_multi."""
    return {re.sub(r"^vision_multi\.", "tagging_head.", name): name for name in file.shapes}


def _check_shapes(path: Path, wanted: Mapping[str, Shape], found: Mapping[str, Shape]) -> None:
    missing = [name for name in wanted if name not in found]
    misshapen = [
        f"{name} is {found[name]} and should be {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if missing or misshapen:
        raise CheckpointError(
            f"{path} does not hold the {len(wanted)} tensors that it should; download or export it again; tensors: "
            f"{counted({'missing': missing, 'of another shape': misshapen})}."
        )


def _check_finite(path: Path, name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{path}: {name} is not of floats but {tensor.dtype}; download or export it again."
        )
    if not _finite(tensor):
        raise CheckpointError(f"{path} holds NaN or infinite values in {name}; download or export it again.")


def _lora(
    file: TensorFile,
    dape: bool | str | os.PathLike[str],
    config: TaggerConfig,
    shapes: Mapping[str, Shape],
) -> dict[str, LoRAPair]:
    if isinstance(dape, bool):
        own = dape and file.metadata.get("dape") == "lora"
        return _read_lora(file, config, shapes) if own else {}
    if file.metadata.get("dape") == "merged":
        raise CheckpointError(f"DAPE is already merged into {file.path}; leave out {dape}.")
    other = TensorFile.open(Path(dape), _DAPE_WANTED)
    if not other.shapes or not all("lora_" in name for name in other.shapes):
        identity = identify_file(other)
        raise CheckpointError(f"{other.path} is {identity.what}, not DAPE; give {_DAPE_WANTED}.")
    return _read_lora(other, config, shapes)


def _read_lora(file: TensorFile, config: TaggerConfig, shapes: Mapping[str, Shape]) -> dict[str, LoRAPair]:
    modules = lora_modules(config)
    names = [f"{module}.lora_{factor}" for module in modules for factor in "AB"]
    unused = [name for name in file.shapes if _ENCODER_B.match(name)]
    held = {name: tensor.float() for name, tensor in _copied(file, [n for n in names if n in file.shapes])}
    pairs = pairs_of(held, modules)
    wanted: dict[str, Shape] = {}
    rank = next((rank_of(module, pair) for module, pair in pairs.items() if pair.A.ndim), 1)
    for module in modules:
        for factor, shape in zip("AB", factor_shapes(module, shapes[f"{module}.weight"], rank), strict=True):
            wanted[f"{module}.lora_{factor}"] = shape
    _check_shapes(file.path, wanted, file.shapes)
    for name, tensor in held.items():
        _check_finite(file.path, name, tensor)
    if any(bool(tensor.any()) for _, tensor in _copied(file, unused)):
        logger.warning(
            "%s also adapts RAM's tag_encoder, whose layers the official code shares with the tagging head, so that "
            "it adds this there too; here it is left out.",
            file.path,
        )
    return pairs


def _copied(file: TensorFile, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, tensor.clone()) for name, tensor in file.in_pieces(names))
