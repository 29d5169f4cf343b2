"""`osediff download` as its users run it. The fetching itself is tested with the core."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from osediff_core.cli import main as cli
from osediff_core.weights import published

ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:9"  # the port "discard", where nothing listens


@pytest.fixture
def osediff(capsys, monkeypatch, tmp_path):
    """Runs a command line in a folder of its own; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def run(*args):
        return cli.main([str(a) for a in args]), *capsys.readouterr()

    return run


@pytest.fixture
def table(monkeypatch):
    """Two published files, a.pkl and b.pkl, which nobody serves."""
    files = [
        published.KnownFile(
            name,
            published.WebPlace(f"{NOWHERE}/{name}"),
            published.Digest("sha256", hashlib.sha256(name.encode()).hexdigest()),
            *(10, "none", "a test", "osediff"),
        )
        for name in ("a.pkl", "b.pkl")
    ]
    monkeypatch.setattr(published, "KNOWN_FILES", tuple(files))


def test_list_shows_everything_and_fetches_nothing(osediff):
    status, out, _ = osediff("download", "--list")
    assert status == 0 and os.listdir() == []
    listed = json.loads(osediff("download", "--list", "--json")[1])["files"]
    for file, record in zip(published.KNOWN_FILES, listed, strict=True):
        assert file.name in out and file.licence in out and file.size_text in out and str(file.place) in out
        assert (
            record["name"] == file.name
            and record["bytes"] == file.size
            and file.digest.value in record["hash"]
        )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "--list"),
        (["--to", "models"], "--list"),
        (["osediff.pkl"], "--to"),
        (["osediff.pkl", "nonsense.pkl", "--to", "models"], "nonsense.pkl"),
        (["osediff.pkl", "--list"], "no names"),
    ],
)
def test_wrong_command_lines_are_refused_at_once(osediff, args, said):
    status, out, err = osediff("download", *args, "--json")
    assert status == 2 and said in err and len(err.splitlines()) == 1 and os.listdir() == []
    assert json.loads(out)["kind"] == "OptionError"


def test_one_failure_does_not_stop_the_rest(osediff, table):
    Path("models").mkdir()
    Path("models/b.pkl").write_bytes(b"b.pkl")
    status, out, err = osediff("download", "a.pkl", "b.pkl", "a.pkl", "--to", "models", "--json")
    failed, ready = json.loads(out)["results"]
    assert status == 1 and len(err.splitlines()) == 1 and "127.0.0.1:9" in err
    assert failed["status"] == "failed" and failed["path"] is None and failed["error"] in err
    path = os.path.join("models", "b.pkl")
    assert ready == {
        "name": "b.pkl",
        "path": path,
        "status": "ready",
        "bytes": 5,
        "error": None,
        "kind": None,
    }
    assert osediff("download", "b.pkl", "--to", "models")[:2] == (0, f"b.pkl: {path}\n")


def test_offline_is_respected(tmp_path):
    command = [
        sys.executable,
        "-m",
        "osediff_core",
        "download",
        "DAPE.pth",
        "osediff.pkl",
        "--to",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.count("HF_HUB_OFFLINE") == 2 and os.listdir(tmp_path) == []
