"""Downloads, from a real HTTP server on this machine that plays the hub and an ordinary host."""

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import threading
import types
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from osediff_core.errors import DownloadError
from osediff_core.weights.download import download
from osediff_core.weights.published import KNOWN_FILES, Digest, HubPlace, KnownFile, WebPlace

ROOT = Path(__file__).parents[3]
INSIDE = (
    "OSEDIFF_TEST_INSIDE_COMFYUI"  # the folder of ComfyUI, in the process that test_inside_comfyui starts
)
CONTENT = bytes(i * i % 251 for i in range(1_000_000))
SHA256 = Digest("sha256", hashlib.sha256(CONTENT).hexdigest())
GIT_SHA1 = Digest("git-sha1", hashlib.sha1(b"blob 1000000\0" + CONTENT).hexdigest())


@dataclass
class Served:
    """content: of every file. cuts: after how many bytes the next answers break off. missing: every answer is 404."""

    content: bytes = CONTENT
    cuts: list[int] = field(default_factory=list)
    missing: bool = False
    ranges: bool = True
    etag: str = SHA256.value
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def gets(self):
        """The Range of every request for content."""
        return [requested for method, _, requested, _ in self.requests if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def note(self):
        served = self.server.served
        served.requests.append(
            (self.command, self.path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        if served.missing:
            self.send_error(404)
        return None if served.missing else served

    def do_HEAD(self):
        """The hub's answer: what the file is, and that its content lies on another host."""
        if served := self.note():
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{served.port}/content{self.path}")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("X-Linked-Etag", f'"{served.etag}"')
            self.send_header("X-Linked-Size", str(len(served.content)))
            self.send_header("ETag", '"other"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    def do_GET(self):
        if not (served := self.note()):
            return
        wanted, size = self.headers.get("Range"), len(served.content)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and served.ranges else 0
        if start and start >= size:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(size - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        end = start + served.cuts.pop(0) if served.cuts else size
        self.wfile.write(served.content[start:end])
        self.close_connection = True


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.served = Served(port=server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server.served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def web(served):
    return KnownFile("w.pkl", WebPlace(f"{served.url}/w.pkl"), GIT_SHA1, 900_000, "none", "a test", "osediff")


@pytest.fixture
def hub(served):
    place = HubPlace("someone/model", "sub/h.pth", endpoint=served.url)
    return KnownFile("h.pth", place, SHA256, len(CONTENT), "none", "a test", "checkpoints")


@pytest.fixture(params=["web", "hub"])
def file(request):
    return request.getfixturevalue(request.param)


def part_of(folder):
    """The one partial file in the folder."""
    (part,) = folder.glob("*.part")
    return part


def refused(file, folder, **options):
    with pytest.raises(DownloadError) as caught:
        download(file, folder, **options)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    return text


class Stop(Exception):
    pass


def stop_at(share):
    def progress(done, total):
        if done >= share * total:
            raise Stop

    return progress


def test_whole(served, file, tmp_path):
    seen = []
    path = download(file, tmp_path / "new" / "folder", progress=lambda *step: seen.append(step))
    assert path == tmp_path / "new" / "folder" / file.name and path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == [file.name]
    assert seen == sorted(seen) and seen[0] == (0, 1_000_000) and seen[-1] == (1_000_000, 1_000_000)
    assert served.gets == [None]


def test_what_is_there_is_not_fetched_again(served, file, tmp_path):
    (tmp_path / file.name).write_bytes(CONTENT)
    assert download(file, tmp_path) == tmp_path / file.name
    assert served.requests == []


def test_another_file_of_that_name_is_left_alone(served, file, tmp_path):
    (tmp_path / file.name).write_bytes(b"mine")
    text = refused(file, tmp_path)
    assert file.digest.value in text and "found" in text and served.requests == []
    assert (tmp_path / file.name).read_bytes() == b"mine"


def test_a_broken_connection_is_taken_up_again(served, file, tmp_path):
    served.cuts = [400_000, 300_000]
    assert download(file, tmp_path).read_bytes() == CONTENT
    assert served.gets == [None, "bytes=400000-", "bytes=700000-"]


def test_a_later_call_resumes(served, file, tmp_path):
    served.cuts = [400_000, 0]
    assert "kept" in refused(file, tmp_path)
    assert part_of(tmp_path).read_bytes() == CONTENT[:400_000]
    served.requests.clear()
    seen = []
    assert download(file, tmp_path, progress=lambda *step: seen.append(step)).read_bytes() == CONTENT
    assert served.gets == ["bytes=400000-"] and seen[0] == (400_000, 1_000_000)
    assert os.listdir(tmp_path) == [file.name]


def test_a_server_without_ranges(served, file, tmp_path):
    served.ranges = False
    with pytest.raises(Stop):
        download(file, tmp_path, progress=stop_at(0.5))
    assert part_of(tmp_path).stat().st_size >= 500_000
    assert download(file, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("error", [Stop, OSError, KeyboardInterrupt])
def test_progress_may_stop_it(file, tmp_path, error):
    def progress(done, total):
        if done > 500_000:
            raise error

    with pytest.raises(error):
        download(file, tmp_path, progress=progress)
    assert 500_000 < part_of(tmp_path).stat().st_size < 1_000_000
    assert download(file, tmp_path).read_bytes() == CONTENT


def test_a_stop_while_checking_keeps_what_has_arrived(served, file, tmp_path):
    with pytest.raises(Stop):
        download(file, tmp_path, progress=stop_at(1))
    assert part_of(tmp_path).stat().st_size == 1_000_000
    served.requests.clear()
    assert download(file, tmp_path).read_bytes() == CONTENT
    assert served.gets == ["bytes=1000000-"]  # answered by 416: there is nothing more


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"!", b"<html>Log in</html>", b""])
def test_a_wrong_hash_leaves_nothing_behind(served, file, tmp_path, content):
    served.content = content
    text = refused(file, tmp_path)
    assert file.digest.value in text and "found" in text
    assert os.listdir(tmp_path) == []


def test_a_part_of_something_else_is_thrown_away(served, file, tmp_path):
    served.cuts = [400_000, 0]
    refused(file, tmp_path)
    part_of(tmp_path).write_bytes(b"?" * 400_000)
    refused(file, tmp_path)
    assert os.listdir(tmp_path) == []
    assert download(file, tmp_path).read_bytes() == CONTENT


def test_a_replaced_file_on_the_hub_is_found_before_the_download(served, hub, tmp_path):
    served.content, served.etag = CONTENT * 2, "f" * 64
    assert "another file" in refused(hub, tmp_path)
    assert served.gets == []


def test_missing_on_the_server(served, file, tmp_path):
    served.missing = True
    assert "answered 404" in refused(file, tmp_path)
    assert os.listdir(tmp_path) == []


def test_no_network(served, web, hub, tmp_path):
    nowhere = "http://127.0.0.1:9"  # the port "discard", where nothing listens
    for file in (
        replace(web, place=WebPlace(f"{nowhere}/w.pkl")),
        replace(hub, place=replace(hub.place, endpoint=nowhere)),
    ):
        assert "check the connection" in refused(file, tmp_path)
    assert os.listdir(tmp_path) == []


def test_too_little_space_is_found_before_anything_is_fetched(served, file, tmp_path):
    free = shutil.disk_usage(tmp_path).free
    text = refused(replace(file, size=free * 2), tmp_path)
    assert "are free" in text and served.requests == [] and os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full disk")
def test_a_disk_that_fills_up(file, tmp_path):
    (tmp_path / f"{file.name}.{file.digest.value[:8]}.part").symlink_to("/dev/full")
    assert "is full" in refused(file, tmp_path)


def test_folder_not_writable(served, file, tmp_path):
    (tmp_path / "in the way").write_text("")
    assert "choose another folder" in refused(file, tmp_path / "in the way")
    assert served.requests == []


def test_unknown_name(tmp_path):
    text = refused("osediff.exe", tmp_path)
    assert all(file.name in text for file in KNOWN_FILES)


def test_the_table_is_sound():
    assert len({file.name for file in KNOWN_FILES}) == len(KNOWN_FILES)
    for file in KNOWN_FILES:
        assert len(file.digest.value) == {"sha256": 64, "git-sha1": 40}[file.digest.kind]
        assert int(file.digest.value, 16) and file.licence and file.purpose
        assert str(file.place).startswith("https://") and file.folder in ("osediff", "checkpoints")


def child(code, **env):
    """Runs code in a Python of its own, as the hub's library reads its switches when it is imported."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True
    )


def test_the_hubs_own_switches(served, tmp_path):
    fetch = f"""
from osediff_core.weights.download import download
from osediff_core.weights.published import Digest, HubPlace, KnownFile
place = HubPlace("someone/thing", "h.pth", revision="abc", repo_type="space")
download(KnownFile("h.pth", place, Digest("sha256", {SHA256.value!r}), 1000000, "", "", "osediff"), {str(tmp_path)!r})
"""
    offline = child(fetch, HF_ENDPOINT=served.url, HF_HUB_OFFLINE="1")
    assert "DownloadError" in offline.stderr and "HF_HUB_OFFLINE" in offline.stderr
    assert served.requests == []

    online = child(fetch, HF_ENDPOINT=served.url, HF_TOKEN="hf_secret", HF_HUB_OFFLINE="0")
    assert online.returncode == 0, online.stderr
    assert (tmp_path / "h.pth").read_bytes() == CONTENT
    head, get = served.requests[-2:]  # the hub's library may ask for things of its own before
    assert head == ("HEAD", "/spaces/someone/thing/resolve/abc/h.pth", None, "Bearer hf_secret")
    assert get[0] == "GET" and get[3] is None  # the token is not for the host of the content


def test_importing_fetches_nothing_and_needs_no_hub():
    probe = child(
        "import sys, osediff_core.weights.download\n"
        "print([m for m in ('torch', 'huggingface_hub') if m in sys.modules])"
    )
    assert probe.stdout.strip() == "[]", probe.stderr


@pytest.mark.slow
def test_inside_comfyui():
    """Runs the tests of the node below, if there is a ComfyUI: in a process of its own, as ComfyUI changes torch."""
    fetch = pytest.importorskip("examples.headless.fetch", reason="examples/ is not in this checkout")
    tree = fetch.find_comfyui()
    if tree is None:
        pytest.skip("there is no ComfyUI here: run examples/headless/fetch.py, or set OSEDIFF_COMFYUI")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-k", "test_node", __file__]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, INSIDE: str(tree)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "passed" not in done.stdout:
        pytest.skip(f"ComfyUI cannot be imported here: {done.stdout}")


@pytest.fixture(scope="module")
def node():
    """The node's module, inside a package as ComfyUI would load it, but without the other nodes."""
    if INSIDE not in os.environ:
        pytest.skip("test_inside_comfyui runs it")
    # here and not in PYTHONPATH: pytest would import the whole pack, which is the package that the tests lie in
    sys.path.append(os.environ[INSIDE])
    import comfy.cli_args
    import torch

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    pytest.importorskip("comfy_api.latest", reason="ComfyUI's requirements are not installed")
    for name, folder in {"_pack": ROOT, "_pack.nodes": ROOT / "nodes"}.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    yield importlib.import_module("_pack.nodes.download")
    for name in [name for name in sys.modules if name.split(".")[0] == "_pack"]:
        del sys.modules[name]


@pytest.fixture
def models(node, web, tmp_path, monkeypatch):
    """A models folder, and `web` as the only published file."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "osediff", ([str(tmp_path)], {".pkl"}))
    published = sys.modules["_pack.osediff_core.weights.published"]
    place, digest = published.WebPlace(web.place.url), published.Digest(web.digest.kind, web.digest.value)
    monkeypatch.setattr(
        published, "KNOWN_FILES", (published.KnownFile(**{**vars(web), "place": place, "digest": digest}),)
    )
    return tmp_path


def test_node_schema(node):
    info = node.Download.GET_NODE_INFO_V1()
    assert info["output_node"] and info["output"] == ["STRING"] and info["category"] == "OSEDiff"
    inputs = info["input"]["required"]
    assert inputs["allow_download"][1]["default"] is False
    assert inputs["which"][1]["options"] == [file.name for file in KNOWN_FILES]
    assert all(options["tooltip"] for _, options in inputs.values())


def test_node_fetches_nothing_unless_switched_on(node, models, served):
    with pytest.raises(Exception, match=r"switch on allow_download .*0\.9 MB from http"):
        node.Download.execute("w.pkl", False)
    assert served.requests == [] and os.listdir(models) == []
    assert node.Download.execute("w.pkl", True).args == (str(models / "w.pkl"),)
    assert (models / "w.pkl").read_bytes() == CONTENT
    assert node.Download.execute("w.pkl", False).args == (str(models / "w.pkl"),)
    assert len(served.requests) == 1


def test_node_checks_a_file_once(node, models, served):
    absent = node.Download.fingerprint_inputs("w.pkl", True)
    node.Download.execute("w.pkl", True)
    present = node.Download.fingerprint_inputs("w.pkl", True)
    assert absent != present == node.Download.fingerprint_inputs("w.pkl", True)
    node.Download.execute("w.pkl", True)
    (models / "w.pkl").write_bytes(b"other")
    assert node.Download.fingerprint_inputs("w.pkl", True) != present
    with pytest.raises(Exception, match="is not the published file"):
        node.Download.execute("w.pkl", True)


def test_node_can_be_interrupted(node, models, served):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        node.Download.execute("w.pkl", True)
    assert not (models / "w.pkl").exists()
    node.Download.execute("w.pkl", True)
