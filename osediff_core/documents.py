"""JSON and YAML from outside as plain values, bounded in size and depth before anything walks through them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DEPTH = 64  # levels of lists and mappings
_VALUES = 2_000_000  # a tokenizer's vocabulary has 50,000; YAML's aliases can stand for any number
_BYTES = 32 * 2**20  # a configuration has a few kB, the largest vocabulary 3 MB


def read_document(path: Path) -> bytes:
    """The content of a file that holds a document. Raises OSError, ValueError for one that is too large for that."""
    with path.open("rb") as file:
        content = file.read(_BYTES + 1)
    if len(content) > _BYTES:
        raise ValueError(f"it is larger than {_BYTES >> 20} MB")
    return content


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Any JSON value. Raises ValueError, with a few words of what is wrong."""
    try:
        return _bounded(json.loads(text))
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def parse_yaml(text: str | bytes) -> Any:  # noqa: ANN401 - any YAML value
    """Any value of YAML's plain types. Raises ValueError, with a few words of what is wrong."""
    import yaml

    try:
        return _bounded(yaml.safe_load(text))
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        place = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise ValueError(f"{error.problem or 'it is no YAML'}{place}") from error
    except yaml.YAMLError as error:
        raise ValueError("it holds characters that YAML does not have") from error
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        # what PyYAML's constructors let through, such as a number without digits
        raise ValueError("it holds a value that YAML does not have") from error


def _bounded(document: Any) -> Any:  # noqa: ANN401 - as above
    """The document itself, once it is known to be small when every alias in it is written out."""
    level, count = [document], 0
    for _ in range(_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                below += [*value.keys(), *value.values()]
            elif isinstance(value, (list, tuple, set)):
                below += value
            if count + len(below) > _VALUES:
                raise ValueError("it holds too many values")
        if not below:
            return document
        level, count = below, count + len(below)
    raise ValueError("its values are nested too deeply")
