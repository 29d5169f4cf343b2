"""Train the embedded tagger on the labelled crops; resumable at any point.

    python -m training.recipes.tiny_dape.train --photos photos --labels runs/tiny_dape/labels --out runs/tiny_dape

Three things are learnt at once: the tags, the teacher's classes from the image's mean token, and the teacher's
features in every cell of the grid. The latter two are dense where tags are sparse; their layers are not exported.
Tags that are measured on pixels are learnt from recoloured crops as well.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osediff_core.dape.network import TaggerNetwork
from osediff_core.dape.preprocess import preprocess
from osediff_core.dape.weights import TaggerWeights, write_tagger

from ...data.pictures import to_tensor
from ..tiny.loop import Stage, StageOptions
from .label import Labels
from .metrics import average_precisions
from .model import CONFIG, GRID
from .photographs import CALIBRATION, TRAIN, Photograph, find_photographs
from .recolour import recoloured
from .targets import MEASURED, SEEN, Vocabulary, choose_vocabulary, measured_targets, targets
from .teacher import CHANNELS

log = logging.getLogger(__name__)

BATCH, RECOLOURED = 12, 6
OPTIONS = StageOptions(  # about 16 minutes of one core
    steps=2400, learning_rate=1e-3, warmup=100, ema_decay=0.998, save_every=100, log_every=100
)
TAGS, COLOURS, CLASSES, FEATURES = 20.0, 4.0, 0.3, 1.0  # weights of the losses; colours: of recoloured crops
WEIGHT_DECAY = 0.05
UNTRAINED_FILE, BASE_FILE = "uncalibrated.safetensors", "base.safetensors"


@dataclass(frozen=True)
class Examples:
    """Of N crops: images uint8 (N, size, size, 3); of tags wanted and weights, fp32 (N, tags); of the teacher classes,
    fp16 (N, 1000), and features, fp32 (N, grid, grid, width), on the axes of `feature_axes`.
    """

    images: np.ndarray
    wanted: np.ndarray
    weights: np.ndarray
    classes: np.ndarray
    features: np.ndarray


class Student(nn.Module):
    """The tagger with the two layers that are there for training alone."""

    def __init__(self, network: TaggerNetwork) -> None:
        super().__init__()
        width = network.config.image_width
        self.network = network
        self.classes, self.features = nn.Linear(width, 1000), nn.Linear(width, width)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pixels (B, 3, size, size) -> logits of tags (B, tags) and classes (B, 1000), features (B, cells, width)."""
        image = self.network.embed(pixels)
        return self.network.classify(image), self.classes(image[:, 0]), self.features(image[:, 1:])


def pixels_of(images: np.ndarray) -> Tensor:
    """uint8 (N, size, size, 3) -> what the network takes."""
    return preprocess(to_tensor(images), images.shape[1])


def feature_axes(features: np.ndarray, count: int) -> tuple[Tensor, Tensor]:
    """Mean and (CHANNELS, count) principal axes of the teacher's features, scaled together to a mean square of one."""
    sample = torch.from_numpy(features[:: max(1, len(features) // 2000)]).float().reshape(-1, CHANNELS)
    mean = sample.mean(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the decomposition is a randomised one, and a resumed run needs the same axes
        _, _, axes = torch.pca_lowrank(sample - mean, q=count, center=False)
    scale = ((sample - mean) @ axes).square().mean().sqrt()
    return mean, axes / scale


@torch.inference_mode()
def scores_of(network: TaggerNetwork, images: np.ndarray, batch: int = 64) -> np.ndarray:
    """The sigmoids (N, tags) for uint8 (N, size, size, 3)."""
    training = network.training
    network.eval()
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    found = torch.cat([network(pixels_of(part)).sigmoid() for part in parts])
    network.train(training)
    return found.numpy()


def train(photos: Path, labels: Path, out: Path, options: StageOptions = OPTIONS) -> Path:
    """Train, and write the tagger without thresholds of its own; returns its file."""
    photographs = find_photographs(photos)
    found = Labels.read(labels, TRAIN)
    vocabulary = choose_vocabulary(photographs, found.classes, found.photos)
    log.info("%d tags: %s", len(vocabulary.tags), ", ".join(vocabulary.names))
    axes = feature_axes(found.features, CONFIG.image_width)
    examples = _examples(photographs, vocabulary, found, axes)
    validation = _examples(photographs, vocabulary, Labels.read(labels, CALIBRATION), axes)
    del found
    torch.manual_seed(options.seed)
    student = Student(TaggerNetwork(replace(CONFIG, tags=vocabulary.tags)))
    with torch.no_grad():  # start from how often each tag is there: nearly never
        student.network.head.fc.bias.fill_(-4.0)
    stage = Stage("tagger", out, {"student": student}, _groups(student), options)

    def loss(_step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        student.train()
        chosen = np.sort(rng.choice(len(examples.images), BATCH, replace=False))
        mirrored = torch.from_numpy(rng.random(BATCH) < 0.5)
        images = recoloured(examples.images[rng.choice(len(examples.images), RECOLOURED, replace=False)], rng)
        return _loss(student, examples, chosen, mirrored, images, vocabulary)

    def validate() -> dict[str, float]:
        scores = scores_of(student.network, validation.images)
        precisions = average_precisions(scores, validation.wanted > SEEN, validation.weights > 0)
        kinds = {
            kind: float(np.nanmean(precisions[vocabulary.of_kind(kind)])) for kind in set(vocabulary.kinds)
        }
        return {f"map_{kind}": value for kind, value in sorted(kinds.items())}

    stage.run(loss, validate, validate_every=500)
    path = out / UNTRAINED_FILE
    write_tagger(path, TaggerWeights.from_network(student.network))
    return path


def _examples(
    photographs: list[Photograph], vocabulary: Vocabulary, found: Labels, axes: tuple[Tensor, Tensor]
) -> Examples:
    wanted, weights = targets(
        vocabulary, photographs, found.images, found.photos, found.wide, found.mixed, found.classes
    )
    projected = [(torch.from_numpy(row).float() - axes[0]) @ axes[1] for row in found.features]
    features = torch.stack(projected).unflatten(1, (GRID, GRID)).numpy()
    return Examples(found.images, wanted, weights, found.classes, features)


def _loss(
    student: Student,
    examples: Examples,
    chosen: np.ndarray,
    mirrored: Tensor,
    images: np.ndarray,
    vocabulary: Vocabulary,
) -> dict[str, Tensor]:
    """chosen, mirrored: which examples, and whether each is mirrored. images: recoloured ones."""
    mirrored = mirrored[:, None, None, None]
    pixels = pixels_of(examples.images[chosen])
    pixels = torch.where(mirrored, pixels.flip(3), pixels)
    grid = torch.from_numpy(examples.features[chosen])
    features = torch.where(mirrored, grid.flip(2), grid).flatten(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        tags, classes, cells = student(torch.cat([pixels, pixels_of(images)]))
    (tags, more), classes, cells = tags.float().split([BATCH, RECOLOURED]), classes[:BATCH], cells[:BATCH]
    wanted, weights = (torch.from_numpy(array[chosen]) for array in (examples.wanted, examples.weights))
    bce = F.binary_cross_entropy_with_logits(tags, wanted, weights, reduction="sum") / weights.sum()
    measured = torch.from_numpy(vocabulary.of_kind(MEASURED))
    colours = F.binary_cross_entropy_with_logits(
        more[:, measured], torch.from_numpy(measured_targets(vocabulary, images))
    )
    probabilities = torch.from_numpy(examples.classes[chosen]).float()
    cross_entropy = -(probabilities * classes.float().log_softmax(dim=1)).sum(dim=1).mean()
    distance = F.mse_loss(cells.float(), features)
    total = TAGS * bce + COLOURS * colours + CLASSES * cross_entropy + FEATURES * distance
    return {"loss": total, "tags": bce, "colours": colours, "classes": cross_entropy, "features": distance}


def _groups(student: Student) -> list[dict]:
    """Matrices decay, the rest does not."""
    matrices = [p for p in student.parameters() if p.ndim > 1]
    others = [p for p in student.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others}]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="the folder of fetch_photos")
    parser.add_argument("--labels", type=Path, required=True, help="the folder of label")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    log.info("%s", train(args.photos, args.labels, args.out))


if __name__ == "__main__":
    main()
