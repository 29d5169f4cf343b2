"""Documents from outside: what is too deep, too large or no value at all is a ValueError and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from osediff_core.documents import parse_json, parse_yaml, read_document


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 65 + "]" * 65,
        '{"a":' * 9000 + "1" + "}" * 9000,
        "",
        "{",
        "nul",
        b"\xff\xfe\xfa",
        "9" * 5000,
    ],
    ids=range(8),
)
def test_json_that_is_none(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 9000,
        "a: &a [*a]",
        "2020-99-99",
        "0b_",
        "!!python/name:os.system",
        "a: b: c",
        "\x00",
        "!!int {}",
        "? [a]",
        "=",
        "!!float x",
        "1e99999: &a {*a: 1}",
        "!!timestamp x",
        "!!binary é",
        b"\xff",
    ],
    ids=range(15),
)
def test_yaml_that_is_none(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_yaml(text)


def test_ordinary_documents_pass() -> None:
    assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert parse_yaml("x: &x {a: 1}\ny: {<<: *x, b: 2}")["y"] == {"a": 1, "b": 2}


def test_a_file_that_is_no_document_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="larger than 32 MB"):
        read_document(tmp_path / "a.json")
