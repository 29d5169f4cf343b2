"""The check of training pictures, on archives made as LSDIR is published: shard-NN.tar.gz of folders of PNG."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from training.data.check import main
from training.data.config import SourceConfig
from training.data.sources import open_source


def png(side):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side + 8, 3), np.uint8)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


@pytest.fixture
def published(tmp_path):
    """Two archives of two pictures each, the last one small."""
    for number in range(2):
        with tarfile.open(tmp_path / f"shard-{number:02}.tar.gz", "w:gz") as archive:
            for index in range(2):
                data = png(24 if (number, index) == (1, 1) else 40)
                member = tarfile.TarInfo(f"{number + 1:04}000/{2 * number + index:07}.png")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return tmp_path


def said(caplog):
    return "\n".join(record.getMessage() for record in caplog.records)


def test_published_archives_become_shards_that_the_trainer_reads(published, caplog):
    caplog.set_level("INFO")
    archives = [str(path) for path in sorted(published.glob("*.tar.gz"))]
    assert main(["--unzip", str(published / "shards"), *archives]) == 0
    source = open_source(SourceConfig(str(published / "shards")))
    assert len(source) == 4 and source.name(3).endswith("shard-01.tar/0002000/0000003")
    before = {path: path.stat().st_mtime_ns for path in (published / "shards").iterdir()}
    assert main(["--unzip", str(published / "shards"), *archives]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (published / "shards").iterdir()}
    journal = published / "journal.jsonl"
    check = [str(published / "shards"), "--journal", str(journal), "--smallest", "32"]
    assert main([*check, "--expect", "4"]) == 0
    assert "4 whole pictures, 1 with a side below 32 px, 0 broken" in said(caplog)
    assert main([*check, "--expect", "5"]) == 1 and "5 pictures were expected: -1" in said(caplog)


def test_an_archive_that_ends_too_soon_is_named_and_leaves_nothing(published, caplog):
    archive = published / "shard-01.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-200])
    assert main(["--unzip", str(published / "shards"), str(archive), str(published / "shard-00.tar.gz")]) == 1
    assert "shard-01.tar.gz is no whole .tar.gz" in said(caplog)
    assert [path.name for path in (published / "shards").iterdir()] == ["shard-00.tar"]


def test_a_stopped_check_goes_on_and_names_what_is_broken(tmp_path, caplog):
    caplog.set_level("INFO")
    pictures, journal = tmp_path / "pictures", tmp_path / "journal.jsonl"
    pictures.mkdir()
    for name in ("a", "b", "c"):
        (pictures / f"{name}.png").write_bytes(png(40))
    (pictures / "b.png").write_bytes(png(40)[:200])
    known = {"name": str(pictures / "a.png"), "size": [600, 600]}
    journal.write_text(json.dumps(known) + '\n{"name": "tor')
    assert main([str(pictures), "--journal", str(journal)]) == 1
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert rows[0] == known and [row["name"][-5:] for row in rows] == ["a.png", "b.png", "c.png"]
    assert "fault" in rows[1] and "2 whole pictures, 1 with a side below 512 px, 1 broken" in said(caplog)


@pytest.mark.parametrize(("arguments", "words"), [
    (["/nowhere"], "no folder /nowhere"),
    (["{folder}", "--journal", "{folder}/a.png"], "no journal of checked pictures"),
    (["{folder}", "--journal", "/nowhere/j.jsonl"], "cannot be written"),
])  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(arguments, words, tmp_path, caplog):
    (tmp_path / "a.png").write_text('{"a": 1}\n')
    assert main([argument.format(folder=tmp_path) for argument in arguments]) == 1
    message = caplog.records[-1].getMessage()
    assert words in message and "\n" not in message and message.endswith(".")
