"""Fuzzing of the command `osediff`: `python -m tests.fuzz`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]  # the pack, and `mini_models`
