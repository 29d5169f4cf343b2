"""A run on the hub: what is uploaded, as a server of the hub's protocol receives it, and the model card."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from PIL import Image

from training.config import TrainConfig
from training.data.config import DataConfig, SourceConfig
from training.publish import card_of, main
from training.run.checkpoints import saved_settings
from training.run.settings import as_yaml

REPO = "someone/osediff-mine"


@pytest.fixture
def hub(monkeypatch):
    """The hub's endpoints for a commit of small files: (what was committed: path -> bytes, paths of the requests)."""
    committed, asked = {}, []

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            if self.headers["Authorization"] != "Bearer hf_good":
                return self._answer({"error": "Invalid username or password."}, 401)
            if self.path.endswith("/preupload/main"):
                kind = {"uploadMode": "regular", "shouldIgnore": False}
                files = [{"path": file["path"], **kind} for file in json.loads(body)["files"]]
                return self._answer({"files": files})
            if self.path.endswith("/commit/main"):
                for line in map(json.loads, body.decode().splitlines()):
                    if line["key"] == "file":
                        committed[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                return self._answer(
                    {"commitUrl": f"https://huggingface.co/{REPO}/commit/0", "commitOid": "0" * 40}
                )
            if self.path == "/api/repos/create":
                assert b'"private"' in body  # as a flag or as the visibility
                return self._answer({"url": f"https://huggingface.co/{REPO}"})
            return self._answer({"errors": [], "warnings": []})  # /api/validate-yaml

        def _answer(self, content, status=200):
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    yield committed, asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has ended, with what is not for others in it, too."""
    folder = tmp_path / "run"
    (folder / "sheets").mkdir(parents=True)
    (folder / "vae").mkdir()
    (folder / "checkpoints/step_00000007").mkdir(parents=True)
    data = DataConfig((SourceConfig("/home/me/secret/photos"),))
    config = TrainConfig(output=str(folder), steps=7, data=data)
    (folder / "config.yaml").write_text(as_yaml(config))
    for name in ("weights.safetensors", "lora_comfyui.safetensors", "vae/config.json", "log.txt"):
        (folder / name).write_bytes(name.encode())
    (folder / "checkpoints/step_00000007/state.safetensors").write_bytes(b"moments")
    for step in (5, 7):
        Image.new("RGB", (8, 8)).save(folder / f"sheets/step_{step:08d}.png")
    rows = [
        {"step": 5, "seconds": 1, "kind": "validation", "values": {"psnr_y": 20.0, "musiq": None}},
        {"step": 7, "seconds": 2, "kind": "validation", "values": {"psnr_y": 23.456, "musiq": None}},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_results_and_nothing_else_are_uploaded(run, hub, caplog):
    caplog.set_level("INFO")
    committed, _ = hub
    assert main([str(run), REPO]) == 0, caplog.text
    assert set(committed) == {
        "README.md",
        "weights.safetensors",
        "lora_comfyui.safetensors",
        "vae/config.json",
        "sheets/step_00000007.png",
    }
    assert committed["weights.safetensors"] == b"weights.safetensors"
    assert committed["README.md"].decode() == (run / "README.md").read_text() and REPO in caplog.text


def test_the_card_says_what_the_run_knows_and_no_places(run):
    card = card_of(run, REPO)
    _, header, body = card.split("---\n", 2)
    assert "super-resolution" in yaml.safe_load(header)["tags"]
    assert "| psnr_y | 23.46 |" in body and "musiq" not in body and "20.0" not in body
    assert "trained 7 steps" in body and "lora_comfyui.safetensors" in body
    assert "secret" not in card and str(run.parent) not in card and "path: photos" in card
    assert saved_settings(run)["output"] == str(run)  # the run's own stays


def test_a_card_of_ones_own_stays(run, hub):
    (run / "README.md").write_text("my own words")
    assert main([str(run), REPO]) == 0 and hub[0]["README.md"] == b"my own words"


@pytest.mark.parametrize(
    ("change", "repo", "sentence", "code"),
    [
        ("", "a b/c", "'a b/c' is no repository (", 2),
        ("", "alone", "'alone' is no repository; write owner/name.", 2),
        ("token", REPO, "The hub needs a token to write", 2),
        ("weights", REPO, "has no weights yet, as its training has not ended", 1),
        ("refused", REPO, f"{REPO} did not take ", 1),
    ],
)
def test_what_cannot_be_published_is_said_in_a_sentence(
    change, repo, sentence, code, run, hub, monkeypatch, caplog
):
    if change == "token":
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("training.publish.get_token", lambda: None)
    if change == "refused":
        monkeypatch.setenv("HF_TOKEN", "hf_bad")
    if change == "weights":
        (run / "weights.safetensors").unlink()
    assert main([str(run), repo]) == code
    assert sentence in caplog.text and "Traceback" not in caplog.text and not hub[0]
