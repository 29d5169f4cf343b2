"""How the command ends where it is not let finish: signals at any moment, and streams that take nothing more."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from osediff_core import interrupts
from osediff_core.cli import main as cli
from osediff_core.cli import signals
from osediff_core.errors import CheckpointError

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "osediff_core"]
SIGNALS = [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated"), ("SIGHUP", 129, "terminated")]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals of POSIX")


@pytest.fixture
def pictures(tmp_path):
    for number in range(3):
        path = tmp_path / f"in/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 10), (number * 20, 100, 50)).save(path)
    return tmp_path / "in"


@pytest.mark.parametrize(("name", "status", "word"), SIGNALS)
def test_a_signal_before_anything_is_imported(name, status, word):
    """The start hears signals from its first lines on: here one comes while the rest of the command is imported."""
    number = getattr(signal, name)
    child = (
        "import sys, os, importlib.abc\n"
        "class At(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'osediff_core.cli.main': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, At())\n"
        "from osediff_core.cli.start import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", child, "info", "tiny", "--json"], cwd=ROOT, capture_output=True
    )
    assert (done.returncode, done.stderr.decode()) == (status, f"osediff: error: {word}\n")
    data = json.loads(done.stdout)
    assert data.keys() == {"version", "schema_version", "error", "kind"}
    assert (data["error"], data["kind"]) == (word, "KeyboardInterrupt")


@pytest.mark.parametrize(("name", "status", "word"), SIGNALS)
@pytest.mark.parametrize("becomes", ["itself", "another error", "nothing"])
def test_a_signal_at_work(monkeypatch, capsys, tmp_path, pictures, name, status, word, becomes):
    """Native code turns a KeyboardInterrupt into an error of its own, and careless code swallows it."""
    from osediff_core.images import files

    decode, seen = files.decode_image, []

    def interrupted(data, path):
        seen.append(path)
        if len(seen) == 2:
            try:
                os.kill(os.getpid(), getattr(signal, name))
                time.sleep(5)
            except KeyboardInterrupt:
                if becomes == "itself":
                    raise
                if becomes == "another error":
                    raise CheckpointError("It is cut short or damaged; download it again.") from None
        return decode(data, path)

    monkeypatch.setattr("osediff_core.images.decode_image", interrupted)
    got = cli.main(["degrade", str(pictures), "-o", str(tmp_path / "out"), "--json"])
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert got == status and data["interrupted"] and data["failed"] == 0 and "damaged" not in err
    assert (
        data["degraded"] + data["not_done"] == 3 and len(os.listdir(tmp_path / "out")) == data["degraded"] > 0
    )
    assert not interrupts.heard  # the next run begins anew
    cli.main(["degrade", str(pictures), "-o", str(tmp_path / "out2")])
    assert len(os.listdir(tmp_path / "out2")) == 3


def test_a_summary_says_the_word(monkeypatch, capsys, tmp_path, pictures):
    monkeypatch.setattr(
        "osediff_core.images.decode_image", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(5)
    )
    assert cli.main(["degrade", str(pictures), "-o", str(tmp_path / "out")]) == 143
    assert "0 degraded, 0 skipped, 0 failed, 3 not done: terminated" in capsys.readouterr().out


def test_weights_that_are_interrupted_are_not_damaged(monkeypatch, capsys):
    def broken(_):
        interrupts.heard.append(signal.SIGINT)
        raise CheckpointError("x is cut short or damaged; download it again.")

    monkeypatch.setattr("osediff_core.weights.describe.describe", lambda *_: broken(_))
    assert cli.main(["info", "tiny"]) == 130
    assert capsys.readouterr().err == "osediff: error: interrupted\n"


def test_an_error_that_came_of_an_interrupt_is_one():
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ValueError("native") from error
    except ValueError as error:
        with pytest.raises(KeyboardInterrupt):
            interrupts.pass_on(error)
    interrupts.pass_on(ValueError("of its own"))


def test_ignored_signals_stay_ignored_and_others_come_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with signals.listening():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    ran = threading.Thread(target=lambda: cli.main(["info", "tiny", "-q"]))  # where no signal can be heard
    ran.start()
    ran.join()


LINES = [
    ["info", "tiny", "--json"],
    ["download", "--list"],
    ["completion", "bash"],
    ["--help"],
    ["upscale", "--help"],
    ["--version"],
    [],
    ["completion", "zsh", "--json-lines"],
]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("line", LINES)
def test_a_full_output_is_one_sentence(line):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *line], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr and "Exception" not in done.stderr
    if (line and not line[-1].startswith("--")) or "--json" in line:
        assert done.returncode == 1 and "Standard output takes no more" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_cost_no_work(tmp_path, pictures, closed):
    line = f'"{sys.executable}" -m osediff_core degrade "{pictures}" -o "{tmp_path}/out" {closed}'
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert len(os.listdir(tmp_path / "out")) == 3
    for name in os.listdir(tmp_path / "out"):
        with Image.open(tmp_path / "out" / name) as image:
            image.load()


@pytest.mark.parametrize(
    "line", [["completion", "zsh"], ["--help"], ["degrade", "IN", "-o", "OUT", "--json-lines"]]
)
def test_a_reader_that_leaves(tmp_path, pictures, line):
    words = [{"IN": str(pictures), "OUT": str(tmp_path / "out")}.get(word, word) for word in line]
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    err = process.stderr.read()
    assert (
        process.wait(120) == 0 and "Traceback" not in err and "Exception" not in err and "Broken" not in err
    )
    assert line[0] != "degrade" or len(os.listdir(tmp_path / "out")) == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_messages_that_cannot_be_shown_cost_no_work(tmp_path, pictures):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "degrade", pictures, "-o", tmp_path / "out"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=full,
        )
    assert (
        done.returncode == 0
        and done.stdout.startswith(b"3 degraded")
        and len(os.listdir(tmp_path / "out")) == 3
    )
