"""The tokenizer that is known by its bytes passes the checks that it is spared."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from osediff_core.backends import tokenizer
from osediff_core.backends.tokenizer import SD21, load_tokenizer
from osediff_core.errors import BaseModelError


def test_stable_diffusions_tokenizer_passes_the_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []
    words = tokenizer._check_words
    monkeypatch.setattr(tokenizer, "_check_words", lambda *given: (words(*given), checked.append(1)))
    folder = tmp_path / "tokenizer"
    shutil.copytree(SD21, folder)
    known = load_tokenizer(folder, 49408)
    assert not checked
    with (folder / "special_tokens_map.json").open("a") as file:
        file.write("\n")
    assert load_tokenizer(folder, 49408)("a wall").input_ids == known("a wall").input_ids and checked
    with pytest.raises(BaseModelError, match="does not number"):
        load_tokenizer(SD21, 49407)
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    (folder / "merges.txt").write_text("\n".join(merges[:-1]), encoding="utf-8")
    with pytest.raises(BaseModelError, match="no merges for"):
        load_tokenizer(folder, 49408)
