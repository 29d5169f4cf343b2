"""Pairs for training.

config.py says where from; sources.py and hub.py read; sampler.py says which; pairs.py crops and degrades; loader.py
serves.
"""

from .config import DataConfig, SourceConfig
from .errors import DataError
from .loader import Batch, PairLoader

__all__ = ["Batch", "DataConfig", "DataError", "PairLoader", "SourceConfig"]
