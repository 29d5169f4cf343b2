"""The engine's cost, as benchmarks/cluster.py measures it: a guard with room for a busy machine."""

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[cluster]'")

from benchmarks.cluster import cost_of

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def test_a_small_picture_costs_little_more_cpu_time_than_in_the_plain_loop(tmp_path):
    """The test plan's point 12."""
    cost = cost_of(tmp_path, side=48, count=100)
    assert cost["ray"] < 1.5 * cost["plain"], cost
