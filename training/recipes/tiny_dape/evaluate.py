"""What the tagger is worth on photographs that it never saw, good and degraded, without and with its LoRA.

    python -m training.recipes.tiny_dape.evaluate --photos photos --labels runs/tiny_dape/labels [--tagger FILE]

Average precision orders the views by a tag's score; `guess` is the tag's share of the views, what a constant score
gets. Agreement: whether a tag of the teacher's likeliest class is the highest, or among the five highest, of the
scores of all tags that come from classes; its guess is the order in which the tags are frequent in training.
Precision, recall and tags a view are those of the thresholds.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np

from osediff_core.dape.choice import TINY_TAGGER
from osediff_core.dape.tagger import Tagger

from .label import Labels
from .metrics import agreement, average_precisions, prevalence
from .photographs import TRAIN, find_photographs
from .targets import LISTED, MEASURED, SEEN, TEACHER, Vocabulary, choose_vocabulary, class_matrix
from .views import Views, held_out_views

log = logging.getLogger(__name__)

KINDS = (TEACHER, LISTED, MEASURED)
_DRAWS = 300  # of the bootstrap


def scores(tagger: Tagger, images: list) -> np.ndarray:
    """(N, tags)."""
    return tagger.scores(images, batch=8).numpy()


def kinds_of(precisions: np.ndarray, vocabulary: Vocabulary) -> dict[str, float]:
    """Means of each kind of tag and of all, over the tags that the views have."""
    found = {kind: float(np.nanmean(precisions[vocabulary.of_kind(kind)])) for kind in KINDS}
    return {**found, "all": float(np.nanmean(precisions))}


def row(found: np.ndarray, views: Views, vocabulary: Vocabulary, thresholds: np.ndarray) -> dict[str, float]:
    """The figures of scores (N, tags) on the views."""
    wanted, given = (views.wanted > SEEN) & views.known, (found > thresholds) & views.known
    hits = (wanted & given).sum()
    figures = {
        f"map_{k}": v for k, v in kinds_of(average_precisions(found, wanted, views.known), vocabulary).items()
    }
    return figures | {
        "top1": top_k(found, views, vocabulary, 1),
        "top5": top_k(found, views, vocabulary, 5),
        "precision": float(hits / max(1, given.sum())),
        "recall": float(hits / wanted.sum()),
        "tags": float((found > thresholds).sum(axis=1).mean()),
    }


def top_k(found: np.ndarray, views: Views, vocabulary: Vocabulary, k: int) -> float:
    """Of the views whose likeliest class has tags here: the share with one of them among the k highest scores."""
    own = vocabulary.of_kind(TEACHER)
    columns = np.array(vocabulary.tags)[own]
    has = class_matrix()[:, columns][views.classes.argmax(axis=1)] > 0
    return agreement(found[:, own][has.any(axis=1)], has[has.any(axis=1)], k)


def guess(views: Views, vocabulary: Vocabulary, frequency: np.ndarray) -> dict[str, float]:
    """What a tagger that looks at nothing would get. frequency: (tags,) share of the training crops."""
    wanted = (views.wanted > SEEN) & views.known
    figures = {f"map_{k}": v for k, v in kinds_of(prevalence(wanted, views.known), vocabulary).items()}
    constant = np.broadcast_to(frequency, views.wanted.shape)
    return figures | {f"top{k}": top_k(constant, views, vocabulary, k) for k in (1, 5)}


def gain_interval(
    better: np.ndarray, worse: np.ndarray, views: Views, draws: int = _DRAWS, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the difference in mean average precision, drawing photographs, not views, with replacement."""
    rng, numbers = np.random.default_rng(seed), np.unique(views.photos)
    wanted = (views.wanted > SEEN) & views.known
    rows_of = {number: np.flatnonzero(views.photos == number) for number in numbers}
    found = []
    for _ in range(draws):
        rows = np.concatenate([rows_of[number] for number in rng.choice(numbers, len(numbers))])
        means = [
            np.nanmean(average_precisions(s[rows], wanted[rows], views.known[rows])) for s in (better, worse)
        ]
        found.append(means[0] - means[1])
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def evaluate(photos: Path, labels: Path, tagger: Path, preset: str) -> dict:
    """All figures, as JSON has them."""
    photographs, training = find_photographs(photos), Labels.read(labels, TRAIN)
    vocabulary = choose_vocabulary(photographs, training.classes, training.photos)
    base, dape = (Tagger.load(tagger, adapted, dtype="fp32", device="cpu") for adapted in (False, True))
    if base.table.indices != vocabulary.tags:
        raise SystemExit(
            f"{tagger} knows other tags than {labels} give: evaluate it with the labels of its training"
        )
    views = held_out_views(photos, vocabulary, preset)
    frequency = (training.classes.astype(np.float32) @ class_matrix()[:, vocabulary.tags]).mean(axis=0)
    limits = np.array(base.table.thresholds)
    seen = {
        (name, condition): scores(one, getattr(views, condition))
        for name, one in (("without LoRA", base), ("with LoRA", dape))
        for condition in ("clean", "degraded")
    }
    rows = {
        f"{condition}, {name}": row(found, views, vocabulary, limits)
        for (name, condition), found in seen.items()
    }
    own = seen["without LoRA", "clean"] > limits
    for (name, condition), found in seen.items():
        given = found > limits
        rows[f"{condition}, {name}"]["same"] = float(
            2 * (own & given).sum() / max(1, own.sum() + given.sum())
        )
    low, high = gain_interval(seen["with LoRA", "degraded"], seen["without LoRA", "degraded"], views)
    wanted = (views.wanted > SEEN) & views.known
    each = average_precisions(seen["with LoRA", "clean"], wanted, views.known)
    return {
        "views": len(views.clean),
        "photographs": len(np.unique(views.photos)),
        "tags": {kind: int(vocabulary.of_kind(kind).sum()) for kind in KINDS},
        "judged": int(wanted.any(axis=0).sum()),
        "guess": guess(views, vocabulary, frequency),
        "rows": rows,
        "gain_degraded_95": [low, high],
        "each": {
            n: round(float(v), 3) for n, v in zip(vocabulary.names, each, strict=True) if not np.isnan(v)
        },
    }


def markdown(found: dict) -> str:
    """The table."""
    columns = {
        "map_all": "mAP", "map_teacher": "of classes", "map_listed": "of lists", "map_measured": "of colours",
        "top1": "top-1", "top5": "top-5", "precision": "precision", "recall": "recall", "tags": "tags", "same": "same",
    }  # fmt: skip
    lines = [
        f"| {found['views']} views | {' | '.join(columns.values())} |",
        "|" + "---|" * (len(columns) + 1),
    ]
    for name, values in {"guess": found["guess"], **found["rows"]}.items():
        shown = (_shown(key, values.get(key)) for key in columns)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return ""
    if key.startswith("map"):
        return f"{value:.3f}"
    return f"{value:.1f}" if key == "tags" else f"{100 * value:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="the folder of fetch_photos")
    parser.add_argument("--labels", type=Path, required=True, help="the folder of label")
    parser.add_argument("--tagger", type=Path, default=TINY_TAGGER)
    parser.add_argument("--preset", default="realesrgan", help="how views are degraded")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = evaluate(args.photos, args.labels, args.tagger, args.preset)
    log.info("%s", markdown(found))
    low, high = found["gain_degraded_95"]
    log.info("mAP on degraded views, with LoRA minus without: 95 %% interval %+.3f to %+.3f", low, high)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
