"""The paper's claims against what was measured, by one rule.

Of the paper only the conclusions are used, none of its figures; what is compared is always two rows of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from osediff_core.evaluate.metrics import METRICS

from .plan import REFERENCE, REFERENCE_ROW, Row
from .results import Difference, Results

AGREES, DISAGREES, UNCLEAR, UNMEASURED = "agrees", "disagrees", "cannot tell", "not measured"

# What a claim of "no difference" allows: above it a difference would be worth something.
MARGIN = {"psnr": 0.05, "d2": 0.01, "niqe": 0.05}  # dB; of D2's range of about 1; NIQE's units

FULL_REFERENCE = ("psnr",)
NO_REFERENCE = ("d2", "niqe")  # D2 stands in: it does look at the truth


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper as a comparison of two rows.

    better, worse: the claim says that the first is better than the second, or, where `equal`, that they are about as
    good. untried: why the comparison is not the paper's; there is no verdict then. of_paper: False for a question that
    the paper does not answer.
    """

    study: str
    text: str
    better: Row
    worse: Row
    metrics: tuple[str, ...]
    equal: bool = False
    untried: str = ""
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


def _row(training: str, prompting: str = "dape") -> Row:
    return Row(training, training, prompting)


CLAIMS = (
    Claim(
        "regulariser",
        "VSD helps the no-reference metrics against no regulariser.",
        REFERENCE_ROW,
        _row("regulariser-none"),
        NO_REFERENCE,
    ),
    Claim(
        "regulariser",
        "VSD in latent space is better than VSD in pixel space.",
        REFERENCE_ROW,
        _row("regulariser-vsd-pixel"),
        NO_REFERENCE,
    ),
    Claim(
        "regulariser",
        "In pixel space VSD and GAN are about equal.",
        _row("regulariser-vsd-pixel"),
        _row("regulariser-gan"),
        NO_REFERENCE,
        equal=True,
        untried="the GAN here works in latents, so this is not the paper's comparison",
    ),
    Claim(
        "prompts",
        "Without text the full-reference metrics are better.",
        _row("prompts-none", "none"),
        REFERENCE_ROW,
        FULL_REFERENCE,
    ),
    Claim(
        "prompts",
        "With text the no-reference metrics are better.",
        REFERENCE_ROW,
        _row("prompts-none", "none"),
        NO_REFERENCE,
    ),
    Claim(
        "prompts",
        "Richer extractors than DAPE bring little.",
        _row(REFERENCE, "hq"),
        REFERENCE_ROW,
        NO_REFERENCE,
        equal=True,
    ),
    Claim(
        "rank",
        "A rank of 2 is too low: it does not converge as 4 does.",
        REFERENCE_ROW,
        _row("rank-2"),
        FULL_REFERENCE + NO_REFERENCE,
    ),
    Claim(
        "rank",
        "A rank of 8 is too high: it overfits, and 4 is better.",
        REFERENCE_ROW,
        _row("rank-8"),
        FULL_REFERENCE + NO_REFERENCE,
    ),
    Claim(
        "rank",
        "A rank of 16 is too high: it overfits, and 4 is better.",
        REFERENCE_ROW,
        _row("rank-16"),
        FULL_REFERENCE + NO_REFERENCE,
    ),
    Claim(
        "vae",
        "Tuning the VAE's encoder helps strongly.",
        REFERENCE_ROW,
        _row("vae-frozen"),
        FULL_REFERENCE + NO_REFERENCE,
    ),
    Claim(
        "vae",
        "A frozen decoder is better than a tuned one for the no-reference metrics.",
        REFERENCE_ROW,
        _row("vae-both"),
        NO_REFERENCE,
    ),
    Claim(
        "official",
        "All adapters of the regulariser (the paper) are better than the mid block's alone (the released script).",
        REFERENCE_ROW,
        _row("official-mid"),
        NO_REFERENCE,
        of_paper=False,
    ),
)


def judge(claim: Claim, results: Results) -> Finding:
    """The claim against all pictures of all sets."""
    gains = {}
    for metric in claim.metrics:
        found = results.difference(claim.better, claim.worse, metric)
        if found is not None:
            gains[metric] = found.times(1 if METRICS[metric].higher else -1)
    by_metric = {
        metric: equality(gain, MARGIN[metric]) if claim.equal else superiority(gain)
        for metric, gain in gains.items()
    }
    why = claim.untried or _same_twice(claim, results)
    return Finding(claim, gains, UNMEASURED if why else joint(list(by_metric.values())), by_metric, why)


def _same_twice(claim: Claim, results: Results) -> str:
    """Why two prompts of the same weights are no comparison: most of them are equal."""
    if claim.better.training != claim.worse.training:
        return ""
    same, total = results.same_prompts(claim.better, claim.worse)
    return f"both prompts are equal in {same} of {total} pictures" if 2 * same > total else ""


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
    """Of several metrics: what all of them say."""
    said = set(verdicts)
    if not said:
        return UNMEASURED
    return said.pop() if len(said) == 1 else UNCLEAR
