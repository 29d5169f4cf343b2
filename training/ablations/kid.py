"""Kernel distance of two sets of images (KID, Bińkowski et al., arXiv 1801.01401), as a matrix that can be resampled.

    h(i, j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i),   k(a, b) = (a . b / d + 1)^3

Its mean over i != j is the unbiased estimate of the squared MMD, below 0 by chance where both sets are alike. x_i is
what was made of y_i, but the estimate compares the sets and not the pairs: all pairs of i and j enter.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """(n, d), (m, d) -> (n, m)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def pair_values(made: Tensor, truth: Tensor) -> Tensor:
    """h of all pairs: two (n, d) -> (n, n), with a diagonal of zeros."""
    cross = kernel(made, truth)
    return (kernel(made, made) + kernel(truth, truth) - cross - cross.T).fill_diagonal_(0)


def by_picture(values: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of `pair_values` over the crops of each pair of pictures, and how many there are, both (pictures, pictures).

    picture: (n,), the number of each crop's picture. Crops of one picture are not independent: pictures are drawn anew.
    """
    count = int(picture.max()) + 1
    of = torch.nn.functional.one_hot(picture, count).to(values)
    pairs = of.T @ (1 - torch.eye(len(picture), dtype=values.dtype)) @ of
    return of.T @ values @ of, pairs


def weighted(sums: Tensor, pairs: Tensor, weights: Tensor) -> Tensor:
    """The estimate with each picture taken `weights` times: sums, pairs (p, p), weights (..., p) -> (...).

    A picture that is drawn twice is not paired with its copy: that would count an image as like itself.
    """
    both = torch.einsum("...i,ij,...j->...", weights, sums, weights)
    same = (weights * (weights - 1)) @ sums.diagonal()
    pair_both = torch.einsum("...i,ij,...j->...", weights, pairs, weights)
    pair_same = (weights * (weights - 1)) @ pairs.diagonal()
    return (both - same) / (pair_both - pair_same)
