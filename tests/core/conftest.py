"""Lets the tests of this folder import their helper modules (sd_models), which importlib mode does not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
