"""The studies as data: what is trained, with which prompts it restores, and what is compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import TrainConfig, load_config
from .prompting import DAPE, NONE, PROMPTINGS, RICH, SHIPPED, WRONG

CONFIG = Path(__file__).parents[1] / "configs" / "ablation.yaml"

REFERENCE, MSE, PLAIN = "reference", "mse", "plain"
SHARE = 0.2  # of the gradient, that every regulariser gets


def _regulariser(kind: str, share: float = SHARE) -> dict[str, Any]:
    return {"model.regulariser": kind, "loss.shares": {"regulariser": share}}


# name of a training -> changes to ablation.yaml
TRAININGS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    PLAIN: {"model.regulariser": "none", "loss.shares": {}},
    MSE: {"model.regulariser": "none", "loss.shares": {}, "loss.perceptual_kind": "none"},
    "sds": _regulariser("sds"),
    "sds-dreamfusion": _regulariser("sds-dreamfusion"),
    "csd": _regulariser("csd"),
    "vsd-pixel": _regulariser("vsd-pixel"),
    "gan-pixel": {"model.regulariser": "none", "loss.shares": {"adversarial": SHARE}},
    "share-5": {"loss.shares": {"regulariser": 0.05}},
    "share-50": {"loss.shares": {"regulariser": 0.5}},
    "prompts-none": {"data.captions": "none"},
    "rank-2": {"model.rank_unet": 2, "model.rank_vae": 2},
    "rank-4": {"model.rank_unet": 4, "model.rank_vae": 4},
    "rank-8": {"model.rank_unet": 8, "model.rank_vae": 8},
    "rank-16": {"model.rank_unet": 16, "model.rank_vae": 16},
    "vae-frozen": {"model.tune_vae": "none"},
    "vae-both": {"model.tune_vae": "both"},
    "official-mid": {"model.official": "mid"},
}


@dataclass(frozen=True)
class Row:
    """A row of a study: the weights of a training, restoring with prompts of one kind."""

    label: str
    training: str
    prompting: str = DAPE

    @property
    def place(self) -> tuple[str, str]:
        """What is measured, whatever it is called in a study."""
        return self.training, self.prompting


@dataclass(frozen=True)
class Study:
    """Rows that differ in one thing from `reference`, which is one of them.

    question: what a reader wants to know. about: Markdown, what is changed.
    """

    name: str
    title: str
    question: str
    about: str
    rows: tuple[Row, ...]
    reference: Row


_REFERENCE = Row("VSD in latents, a fifth of the gradient", REFERENCE)
START = Row("as shipped", REFERENCE, SHIPPED)


def _called(label: str) -> Row:
    return Row(label, REFERENCE)


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "blur",
            "What MSE alone does",
            "Does MSE alone blur, and what sharpens again?",
            "The shipped weights, from which all variants start; trained further by MSE alone, with the perceptual "
            "distance, and with VSD beside both.",
            (
                START,
                Row("MSE", MSE),
                Row("MSE + perceptual", PLAIN),
                _called("MSE + perceptual + VSD"),
            ),
            _called("MSE + perceptual + VSD"),
        ),
        Study(
            "regulariser",
            "Regularisers",
            "Which regulariser adds most, at the same share of the gradient?",
            "`model.regulariser`, each with a fifth of the gradient at the latents. *SDS, DreamFusion's weighting* is "
            "that of the literature; the others divide by the teacher's distance, as OSEDiff does. *GAN in pixels* is "
            "a discriminator on EfficientNet-Lite0's features (`loss.adversarial`).",
            (
                Row("none", PLAIN),
                Row("SDS", "sds"),
                Row("SDS, DreamFusion's weighting", "sds-dreamfusion"),
                Row("CSD", "csd"),
                Row("GAN in pixels", "gan-pixel"),
                Row("VSD in pixels", "vsd-pixel"),
                _called("VSD in latents"),
            ),
            _called("VSD in latents"),
        ),
        Study(
            "share",
            "How much VSD",
            "How large should VSD's share of the gradient be?",
            "`loss.shares.regulariser` of VSD in latents.",
            (
                Row("0", PLAIN),
                Row("5 %", "share-5"),
                _called("20 %"),
                Row("50 %", "share-50"),
            ),
            _called("20 %"),
        ),
        Study(
            "prompts",
            "Prompts",
            "Do prompts matter, and must they be right?",
            "Trained with the tags of the HQ crop by the tagger without DAPE, as the official code, or without text. "
            "*DAPE* restores with tags of the low-quality image by the tagger with DAPE's LoRA; *another image's* with "
            "those of the next one in the set; *richer* with tags of the good image and its colours and texture, which "
            "no user has; *none* with the same weights and no text.",
            (
                Row("no text in training either", "prompts-none", NONE),
                Row("none", REFERENCE, NONE),
                Row("another image's", REFERENCE, WRONG),
                Row("richer", REFERENCE, RICH),
                _called("DAPE"),
            ),
            _called("DAPE"),
        ),
        Study(
            "rank",
            "Rank of LoRA",
            "Which rank is enough?",
            "`model.rank_unet` and `model.rank_vae` together, from the nearest weights of that rank to the shipped "
            "ones; the regulariser keeps its own.",
            (
                Row("2", "rank-2"),
                Row("4", "rank-4"),
                Row("8", "rank-8"),
                Row("16", "rank-16"),
            ),
            Row("4", "rank-4"),
        ),
        Study(
            "vae",
            "Tuning the VAE",
            "Which half of the VAE should be tuned?",
            "`model.tune_vae`: none of it, the encoder (the paper), encoder and decoder. The encoder's LoRA starts "
            "from the shipped one, or is left out.",
            (
                Row("frozen", "vae-frozen"),
                _called("encoder"),
                Row("encoder and decoder", "vae-both"),
            ),
            _called("encoder"),
        ),
        Study(
            "official",
            "The released script's regulariser",
            "Does it matter that the released script trains a part of its regulariser only?",
            "`model.official: mid`. In the released script only the mid block's adapters of the regulariser act and "
            "learn; the paper describes all of them.",
            (
                Row("mid block only", "official-mid"),
                _called("all adapters"),
            ),
            _called("all adapters"),
        ),
    )
}


def trainings(studies: list[str]) -> list[str]:
    """The trainings that these studies need, the reference first and each once."""
    rows = [_REFERENCE, *(row for name in studies for row in STUDIES[name].rows)]
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
    return [f"{key}={json.dumps(value)}" for key, value in TRAININGS[training].items()]
