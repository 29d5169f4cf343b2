"""Claims against what was measured, by one rule.

Of the paper only the conclusions are used, none of its figures; what is compared is always two rows of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .figures import KID, METRICS, SHARPNESS
from .plan import MSE, PLAIN, REFERENCE, START, Row
from .prompting import DAPE, NONE, RICH, WRONG
from .results import Difference, Results

AGREES, DISAGREES, UNCLEAR, UNMEASURED = "yes", "no", "cannot tell", "not measured"

# What a claim of "no difference" allows: above it a difference would be worth something.
MARGIN = {"psnr": 0.05, "d2": 0.01, "niqe": 0.1, KID: 2.0, SHARPNESS: 0.03}

FULL_REFERENCE = ("psnr",)
NO_REFERENCE = ("d2", "niqe", KID)  # D2 stands in: it does look at the truth


@dataclass(frozen=True)
class Claim:
    """One sentence as a comparison of two rows.

    better, worse: the claim says that the first is better than the second, or, where `equal`, that they are about as
    good. of_paper: False for a question that the paper does not answer.
    """

    study: str
    text: str
    better: Row
    worse: Row
    metrics: tuple[str, ...]
    equal: bool = False
    of_paper: bool = True


@dataclass(frozen=True)
class Finding:
    """gains: metric -> how much better the first row is, with the sign so that above 0 is better.

    by_metric: what each alone says. why: of a verdict that is none although there are gains.
    """

    claim: Claim
    gains: dict[str, Difference]
    verdict: str
    by_metric: dict[str, str]
    why: str = ""


def _row(training: str, prompting: str = DAPE) -> Row:
    return Row(training, training, prompting)


_REFERENCE = _row(REFERENCE)

CLAIMS = (
    Claim(
        "blur",
        "MSE alone blurs: the shipped weights were sharper before it.",
        START,
        _row(MSE),
        (SHARPNESS,),
        of_paper=False,
    ),
    Claim(
        "blur",
        "MSE alone gives better full-reference metrics than with VSD and the perceptual distance.",
        _row(MSE),
        _REFERENCE,
        FULL_REFERENCE,
        of_paper=False,
    ),
    Claim(
        "blur",
        "VSD sharpens what MSE and the perceptual distance give.",
        _REFERENCE,
        _row(PLAIN),
        (SHARPNESS,),
        of_paper=False,
    ),
    Claim(
        "regulariser",
        "VSD is better than no regulariser in the no-reference metrics.",
        _REFERENCE,
        _row(PLAIN),
        NO_REFERENCE,
    ),
    Claim(
        "regulariser",
        "VSD in latent space is better than VSD in pixel space.",
        _REFERENCE,
        _row("vsd-pixel"),
        NO_REFERENCE,
    ),
    Claim(
        "regulariser",
        "In pixel space VSD and GAN are about equal.",
        _row("vsd-pixel"),
        _row("gan-pixel"),
        NO_REFERENCE,
        equal=True,
    ),
    Claim(
        "regulariser",
        "VSD is better than SDS, weighted alike.",
        _REFERENCE,
        _row("sds"),
        NO_REFERENCE,
        of_paper=False,
    ),
    Claim(
        "regulariser",
        "VSD is better than SDS as the literature weights it.",
        _REFERENCE,
        _row("sds-dreamfusion"),
        NO_REFERENCE,
        of_paper=False,
    ),
    Claim(
        "regulariser",
        "VSD, which trains a regulariser, is better than CSD, which trains none.",
        _REFERENCE,
        _row("csd"),
        NO_REFERENCE,
        of_paper=False,
    ),
    Claim(
        "share",
        "VSD helps more with a fifth of the gradient than with a twentieth.",
        _REFERENCE,
        _row("share-5"),
        NO_REFERENCE,
        of_paper=False,
    ),
    Claim(
        "share",
        "Half of the gradient is too much: a fifth is better.",
        _REFERENCE,
        _row("share-50"),
        FULL_REFERENCE + NO_REFERENCE,
        of_paper=False,
    ),
    Claim(
        "prompts",
        "Without text the full-reference metrics are better.",
        _row("prompts-none", NONE),
        _REFERENCE,
        FULL_REFERENCE,
    ),
    Claim(
        "prompts",
        "With text the no-reference metrics are better.",
        _REFERENCE,
        _row("prompts-none", NONE),
        NO_REFERENCE,
    ),
    Claim(
        "prompts",
        "Richer prompts than DAPE's bring little.",
        _row(REFERENCE, RICH),
        _REFERENCE,
        NO_REFERENCE,
        equal=True,
    ),
    Claim(
        "prompts",
        "The prompt must be right: DAPE's is better than another image's.",
        _REFERENCE,
        _row(REFERENCE, WRONG),
        FULL_REFERENCE + NO_REFERENCE,
        of_paper=False,
    ),
    Claim(
        "rank",
        "A rank of 2 is too low: 4 is better.",
        _row("rank-4"),
        _row("rank-2"),
        FULL_REFERENCE + NO_REFERENCE,
    ),
    Claim(
        "rank",
        "A rank of 8 is too high: 4 is better.",
        _row("rank-4"),
        _row("rank-8"),
        FULL_REFERENCE + NO_REFERENCE,
    ),
    Claim(
        "rank",
        "A rank of 16 is too high: 4 is better.",
        _row("rank-4"),
        _row("rank-16"),
        FULL_REFERENCE + NO_REFERENCE,
    ),
    Claim(
        "vae",
        "Tuning the VAE's encoder helps.",
        _REFERENCE,
        _row("vae-frozen"),
        FULL_REFERENCE + NO_REFERENCE,
    ),
    Claim(
        "vae",
        "A frozen decoder is better than a tuned one in the no-reference metrics.",
        _REFERENCE,
        _row("vae-both"),
        NO_REFERENCE,
    ),
    Claim(
        "official",
        "All adapters of the regulariser (the paper) are better than the mid block's alone (the released script).",
        _REFERENCE,
        _row("official-mid"),
        NO_REFERENCE,
        of_paper=False,
    ),
)


def judge(claim: Claim, results: Results) -> Finding:
    """The claim against all images of all sets."""
    gains = {}
    for metric in claim.metrics:
        found = results.difference(claim.better, claim.worse, metric)
        if found is not None:
            gains[metric] = found.times(1 if METRICS[metric].higher else -1)
    by_metric = {
        metric: equality(gain, MARGIN[metric]) if claim.equal else superiority(gain)
        for metric, gain in gains.items()
    }
    why = _same_twice(claim, results)
    return Finding(claim, gains, UNMEASURED if why else joint(list(by_metric.values())), by_metric, why)


def _same_twice(claim: Claim, results: Results) -> str:
    """Why two prompts of the same weights are no comparison: most of them are equal."""
    if claim.better.training != claim.worse.training:
        return ""
    same, total = results.same_prompts(claim.better, claim.worse)
    return f"both prompts are equal in {same} of {total} images" if 2 * same > total else ""


def superiority(gain: Difference) -> str:
    """Of a claim that something is better: `gain` above 0 says so."""
    if len(gain.by_seed) > 1:
        if gain.low > 0 and min(gain.by_seed) > 0:
            return AGREES
        if gain.high < 0 and max(gain.by_seed) < 0:
            return DISAGREES
    return UNCLEAR


def equality(gain: Difference, margin: float) -> str:
    """Of a claim that two are about equal: the whole interval within the margin, or the whole of it outside."""
    if len(gain.by_seed) > 1:
        if -margin < gain.low and gain.high < margin:
            return AGREES
        above = gain.low > margin and min(gain.by_seed) > 0
        below = gain.high < -margin and max(gain.by_seed) < 0
        if above or below:
            return DISAGREES
    return UNCLEAR


def joint(verdicts: Sequence[str]) -> str:
    """Of several metrics: what more than half of them say, if none says the contrary."""
    if not verdicts:
        return UNMEASURED
    for said, contrary in ((AGREES, DISAGREES), (DISAGREES, AGREES)):
        if 2 * verdicts.count(said) > len(verdicts) and contrary not in verdicts:
            return said
    return UNCLEAR
