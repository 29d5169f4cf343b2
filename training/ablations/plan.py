"""The studies as data: what is trained, with which prompts it restores, and what is compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import TrainConfig, load_config

CONFIG = Path(__file__).parents[1] / "configs" / "ablation.yaml"

REFERENCE = "reference"

# name of a training -> changes to ablation.yaml
TRAININGS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "regulariser-none": {"model.regulariser": "none"},
    "regulariser-sds": {"model.regulariser": "sds"},
    "regulariser-csd": {"model.regulariser": "csd"},
    "regulariser-gan": {"model.regulariser": "gan"},
    "regulariser-vsd-pixel": {"model.regulariser": "vsd-pixel"},
    "prompts-none": {"data.captions": "none"},
    "rank-2": {"model.rank_unet": 2, "model.rank_vae": 2},
    "rank-8": {"model.rank_unet": 8, "model.rank_vae": 8},
    "rank-16": {"model.rank_unet": 16, "model.rank_vae": 16},
    "vae-frozen": {"model.tune_vae": "none"},
    "vae-both": {"model.tune_vae": "both"},
    "official-mid": {"model.official": "mid"},
}

# How a picture that is restored gets its prompt. none: it gets none. dape: tags of the low-quality picture by the
# embedded tagger with its LoRA, as the paper's inference. hq: tags of the good picture by the tagger without it, which
# no user has: what a perfect extractor could give at most.
PROMPTINGS = ("none", "dape", "hq")


@dataclass(frozen=True)
class Row:
    """A row of a study: the weights of a training, restoring with prompts of one kind."""

    label: str
    training: str
    prompting: str = "dape"

    @property
    def is_reference(self) -> bool:
        """Whether it is what the others are compared with, whatever it is called there."""
        return (self.training, self.prompting) == (REFERENCE, "dape")


@dataclass(frozen=True)
class Study:
    """Rows that differ in one thing from `REFERENCE_ROW`, which is one of them. about: Markdown, what is changed."""

    name: str
    title: str
    about: str
    rows: tuple[Row, ...]


REFERENCE_ROW = Row("reference", REFERENCE)

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "regulariser",
            "Regulariser",
            "`model.regulariser`, each with the same weight. The GAN here judges noised latents; the paper's judges "
            "pixels.",
            (
                Row("none", "regulariser-none"),
                Row("SDS", "regulariser-sds"),
                Row("CSD", "regulariser-csd"),
                Row("GAN in latents", "regulariser-gan"),
                Row("VSD in pixels", "regulariser-vsd-pixel"),
                Row("VSD in latents", REFERENCE),
            ),
        ),
        Study(
            "prompts",
            "Prompts",
            "Trained with the tags of the HQ crop by the tagger without DAPE, as the official code, or without text. "
            "*DAPE* restores with tags of the low-quality picture by the tagger with DAPE's LoRA. *HQ tags* are the "
            "same weights with tags of the good picture by the tagger alone: no user has these, they stand for the "
            "best that a richer extractor could say. *Text in training only* restores by the same weights without "
            "a prompt.",
            (
                Row("no text", "prompts-none", "none"),
                Row("text in training only", REFERENCE, "none"),
                Row("HQ tags", REFERENCE, "hq"),
                Row("DAPE", REFERENCE),
            ),
        ),
        Study(
            "rank",
            "Rank of LoRA",
            "`model.rank_unet` and `model.rank_vae` together; the regulariser keeps 4. The factor 8 / rank and the "
            "start are the official ones, so that a higher rank also takes smaller steps at first.",
            (
                Row("2", "rank-2"),
                Row("4", REFERENCE),
                Row("8", "rank-8"),
                Row("16", "rank-16"),
            ),
        ),
        Study(
            "vae",
            "Tuning the VAE",
            "`model.tune_vae`: none of it, the encoder (the paper), encoder and decoder.",
            (
                Row("frozen", "vae-frozen"),
                Row("encoder", REFERENCE),
                Row("encoder and decoder", "vae-both"),
            ),
        ),
        Study(
            "official",
            "The released script's regulariser",
            "`model.official: mid`. In the released script only the mid block's adapters of the regulariser act and "
            "learn; the paper describes all of them.",
            (
                Row("mid block only", "official-mid"),
                Row("all adapters", REFERENCE),
            ),
        ),
    )
}


def trainings(studies: list[str]) -> list[str]:
    """The trainings that these studies need, the shared reference first and each once."""
    rows = [REFERENCE_ROW, *(row for name in studies for row in STUDIES[name].rows)]
    return list(dict.fromkeys(row.training for row in rows))


def promptings(training: str) -> tuple[str, ...]:
    """How its weights restore in any study; the same whichever studies are asked for."""
    used = {row.prompting for study in STUDIES.values() for row in study.rows if row.training == training}
    return tuple(prompting for prompting in PROMPTINGS if prompting in used)


def config_of(training: str, overrides: list[str]) -> TrainConfig:
    """The whole configuration. overrides: "section.key=value", beside the training's own. Raises OptionError."""
    return load_config(CONFIG, [*settings_of(training), *overrides])


def settings_of(training: str) -> list[str]:
    """The changes to ablation.yaml as "section.key=value"."""
    return [f"{key}={value}" for key, value in TRAININGS[training].items()]
