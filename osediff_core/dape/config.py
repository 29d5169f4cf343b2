"""Configuration of a tagger: every size of the image encoder and the tagging head, and the tags it knows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from ..documents import parse_json
from ..errors import OptionError

if TYPE_CHECKING:
    from transformers import SwinConfig

LIST_LENGTH = 4585  # tags in RAM's list

_LARGEST, _MOST = 16384, 128  # of sizes; of layers, heads and stages. RAM's are 3072 and 48


@dataclass(frozen=True)
class TaggerConfig:
    """The defaults are RAM's (Recognize Anything, Swin-L, 384 px), which DAPE adapts.

    Image encoder (Swin): image_size: side in pixels to which every picture is resized. patch_size: pixels.
    swin_width: channels of the first stage, doubled by each further one. swin_depths, swin_heads: blocks and
    attention heads of each stage. window_size: side of an attention window, in patches. mlp_ratio: hidden over
    outer width. image_width: of what the head sees of the image (`image_proj`).
    Tagging head: label_width: of the label embeddings. head_width, head_heads, head_layers, head_mlp_width.
    Training only: drop_path, dropout.
    tags: increasing indices into the list of 4585 tags, None for all. thresholds: on the sigmoid, one for each
    tag, None for those of the list.
    Raises OptionError for sizes that do not go together.
    """

    image_size: int = 384
    patch_size: int = 4
    swin_width: int = 192
    swin_depths: tuple[int, ...] = (2, 2, 18, 2)
    swin_heads: tuple[int, ...] = (6, 12, 24, 48)
    window_size: int = 12
    mlp_ratio: float = 4.0
    image_width: int = 512
    label_width: int = 512
    head_width: int = 768
    head_heads: int = 4
    head_layers: int = 2
    head_mlp_width: int = 3072
    drop_path: float = 0.1
    dropout: float = 0.1
    tags: tuple[int, ...] | None = None
    thresholds: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_tags(self)

    @property
    def tag_count(self) -> int:
        """Number of tags that the tagger knows."""
        return LIST_LENGTH if self.tags is None else len(self.tags)

    @property
    def swin_widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.swin_width * 2**stage for stage in range(len(self.swin_depths)))

    def swin(self) -> SwinConfig:
        """The image encoder for transformers."""
        from transformers import SwinConfig

        return SwinConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_channels=3,
            embed_dim=self.swin_width,
            depths=list(self.swin_depths),
            num_heads=list(self.swin_heads),
            window_size=self.window_size,
            mlp_ratio=self.mlp_ratio,
            qkv_bias=True,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            layer_norm_eps=1e-5,
            use_absolute_embeddings=False,
            drop_path_rate=self.drop_path,
        )

    def to_json(self) -> str:
        """For a file's metadata."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> TaggerConfig:
        """The inverse of `to_json`. Raises OptionError for anything else."""
        try:
            values = parse_json(text)
            known = {field.name for field in fields(cls)}
            if not isinstance(values, dict) or set(values) - known:
                raise TypeError
            return cls(**{name: _as_field(value) for name, value in values.items()})
        except (ValueError, TypeError) as error:
            raise OptionError("The tagger's configuration cannot be read.") from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_field(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return tuple(value) if isinstance(value, list) else value


def _check_sizes(config: TaggerConfig) -> None:
    sizes = {
        name: getattr(config, name)
        for name in (
            "image_size patch_size swin_width window_size image_width label_width head_width head_heads head_layers "
            "head_mlp_width"
        ).split()
    }
    for name, value in sizes.items():
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise OptionError(
                f"The tagger's {name} is {value!r:.60}; it must be a whole number from 1 to {_LARGEST}."
            )
    stages = (*config.swin_depths, *config.swin_heads)
    if not stages or len(config.swin_depths) != len(config.swin_heads):
        raise OptionError("The tagger's swin_depths and swin_heads must have one number for each stage.")
    if len(config.swin_depths) > _MOST or any(
        type(value) is not int or not 1 <= value <= _MOST for value in (*stages, config.head_layers)
    ):
        raise OptionError(
            f"The tagger's swin_depths, swin_heads and head_layers must be whole numbers of at least 1 and at "
            f"most {_MOST}, for no more stages."
        )
    if config.image_size % config.patch_size:
        raise OptionError(
            f"The tagger's image_size {config.image_size} is not a multiple of its patch_size {config.patch_size}."
        )
    widths = [
        *zip(config.swin_widths, config.swin_heads, strict=True),
        (config.head_width, config.head_heads),
    ]
    for width, heads in widths:
        if width % heads:
            raise OptionError(f"The tagger's width {width} cannot be divided among {heads} attention heads.")
    shares = config.mlp_ratio, config.drop_path, config.dropout
    if not all(map(_is_number, shares)):
        raise OptionError("The tagger's mlp_ratio, drop_path and dropout must be numbers.")
    if not 0 < config.mlp_ratio <= _MOST or not 0 <= config.drop_path < 1 or not 0 <= config.dropout < 1:
        raise OptionError("The tagger's mlp_ratio must be above 0, drop_path and dropout from 0 to below 1.")


def _check_tags(config: TaggerConfig) -> None:
    tags, thresholds = config.tags, config.thresholds
    if tags is not None:
        inside = all(type(tag) is int and 0 <= tag < LIST_LENGTH for tag in tags)
        if not tags or not inside or list(tags) != sorted(set(tags)):
            raise OptionError(
                f"The tagger's tags must be increasing indices from 0 to {LIST_LENGTH - 1}, at least one."
            )
    if thresholds is not None and not all(_is_number(value) and 0 <= value <= 1 for value in thresholds):
        raise OptionError("The tagger's thresholds must be numbers from 0 to 1.")
    if thresholds is not None and len(thresholds) != config.tag_count:
        raise OptionError(
            f"The tagger has {len(thresholds)} thresholds for {config.tag_count} tags; there must be one for each."
        )
