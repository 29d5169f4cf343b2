"""Shares of the gradient against gradients computed by hand."""

import json

import pytest
import torch

from training.losses.balance import GradientBalance


def terms(latents, seed):
    """Three terms with gradients of very different sizes."""
    a, b, c = torch.randn(3, *latents.shape, generator=torch.Generator().manual_seed(seed))
    return {
        "l2": (latents - a).square().mean(),
        "regulariser": 1e-4 * (latents * b).sum(),
        "adversarial": 30 * (latents * c).tanh().mean(),
    }


def norms(found, latents):
    return {
        name: float(torch.autograd.grad(term, latents, retain_graph=True)[0].norm())
        for name, term in found.items()
    }


def test_each_term_gets_its_share():
    shares = {"regulariser": 0.2, "adversarial": 0.3}
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = terms(latents, 1)
    weights = GradientBalance(shares).weights(found, 2 * found["l2"], latents)
    each = norms(found, latents)
    sizes = {"l2": 2 * each["l2"]} | {name: weights[name] * each[name] for name in shares}
    for name, share in shares.items():
        assert sizes[name] / sum(sizes.values()) == pytest.approx(share, rel=1e-5)
    (found["l2"] + sum(weights[name] * found[name] for name in shares)).backward()  # the graph is still there
    assert latents.grad is not None


def test_measured_every_so_often_and_averaged():
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    balance = GradientBalance({"regulariser": 0.2}, every=3, average=0.5)
    weights, measured = [], []
    for call in range(9):
        found = terms(latents, call)
        if call % 3 == 0:
            measured.append(norms(found, latents))
        weights.append(balance.weights(found, found["l2"], latents)["regulariser"])
    assert weights[0] == weights[1] == weights[2] != weights[3]
    # the mean of the first two, then halfway to the third
    for name, key in (("rest", "l2"), ("regulariser", "regulariser")):
        one, two, three = (found[key] for found in measured)
        assert balance.norms[name] == pytest.approx(0.5 * (one + two) / 2 + 0.5 * three)
    expected = 0.2 / 0.8 * balance.norms["rest"] / balance.norms["regulariser"]
    assert weights[-1] == pytest.approx(expected)


def test_goes_on_from_its_state_as_if_it_had_not_stopped():
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def run(balance, calls):
        return [
            balance.weights(found, found["l2"], latents)["regulariser"]
            for found in (terms(latents, call) for call in calls)
        ]

    whole = run(GradientBalance({"regulariser": 0.2}, every=2), range(7))
    first = GradientBalance({"regulariser": 0.2}, every=2)
    before = run(first, range(3))
    second = GradientBalance({"regulariser": 0.2}, every=2)
    tensors, values = first.state()
    second.load(tensors, json.loads(json.dumps(values)), 3)
    assert before + run(second, range(3, 7)) == whole
    other = GradientBalance({"adversarial": 0.2})
    other.load(*first.state(), 3)  # of a run with another term: measured anew
    assert run_adversarial(other, latents) > 0


def run_adversarial(balance, latents):
    found = terms(latents, 1)
    return balance.weights(found, found["l2"], latents)["adversarial"]


def test_a_term_without_a_gradient_and_one_that_is_not_finite():
    latents = torch.randn(1, 4, 8, 8, requires_grad=True)
    rest = latents.square().mean()
    assert GradientBalance({"a": 0.5}).weights({"a": torch.tensor(1.0)}, rest, latents) == {"a": 0.0}
    assert GradientBalance({"a": 0.5}).weights({"a": 0 * latents.sum()}, rest, latents) == {"a": 0.0}
    balance = GradientBalance({"a": 0.5}, every=1)
    first = balance.weights({"a": latents.sum()}, rest, latents)
    assert balance.weights({"a": latents.sum() * float("nan")}, rest, latents) == first


def test_scaled_while_measured_so_that_small_gradients_are_not_lost():
    latents = torch.full((4,), 1e-4, dtype=torch.float16, requires_grad=True)
    rest, tiny = latents.sum(), (latents * 1e-5).sum() * 1e-3
    plain = GradientBalance({"a": 0.5}).weights({"a": tiny}, rest, latents)["a"]
    scaled = GradientBalance({"a": 0.5}, scale=2.0**12).weights({"a": tiny}, rest, latents)["a"]
    assert plain == 0 and scaled == pytest.approx(1e8, rel=0.05)
