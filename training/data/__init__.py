"""Pairs for training.

config.py says where from; sources.py, shards.py and hub.py read; sampler.py says which; pairs.py crops and degrades;
loader.py serves. captions.py and prompts.py say what a picture shows, in words and in embeddings.
"""

from .captions import Tagger
from .config import DataConfig, SourceConfig
from .errors import DataError
from .loader import Batch, PairLoader, Report

__all__ = ["Batch", "DataConfig", "DataError", "PairLoader", "Report", "SourceConfig", "Tagger"]
