import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from training.caption import main
from training.data.captions import read_captions


def test_captions_are_made_once_and_go_on_after_a_kill(tmp_path, caplog, mini_base):
    folder, out = tmp_path / "pictures", tmp_path / "captions.jsonl"
    folder.mkdir()
    for index, level in enumerate((10, 128, 250)):
        Image.fromarray(np.full((20, 20, 3), level, np.uint8)).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    command = ["--tagger", "appearance", "--out", str(out), str(folder)]
    assert main(command) == 0
    whole = out.read_text()
    assert [line.rsplit('"caption": ', 1)[1] for line in whole.splitlines()] == [
        '"black and white, dark, blurry"}',
        '"black and white, blurry"}',
        '"black and white, bright, blurry"}',
    ]
    assert any("broken.png" in record.getMessage() for record in caplog.records)
    out.write_text(whole[: len(whole) - 30])  # torn by a kill
    cache = tmp_path / "embeds"
    assert main([*command, "--embeddings", str(cache), "--base", str(mini_base)]) == 0
    assert out.read_text() == whole and len(read_captions(out)) == 3
    assert len(list(cache.rglob("*.safetensors"))) == 4  # the empty prompt, too
    assert main(["--tagger", "appearance", "--out", str(out), str(tmp_path / "nowhere")]) == 1


def test_shares_together_caption_every_picture_once(tmp_path, caplog):
    (tmp_path / "pictures").mkdir()
    for index in range(5):
        Image.fromarray(np.full((16, 16, 3), 40 * index, np.uint8)).save(tmp_path / f"pictures/{index}.png")
    command = ["--tagger", "appearance", str(tmp_path / "pictures")]
    for share in ("1/2", "2/2", "1/1"):
        assert main(["--out", str(tmp_path / share.replace("/", "_")), "--share", share, *command]) == 0
    lines = {path: (tmp_path / path).read_text().splitlines() for path in ("1_2", "2_2", "1_1")}
    assert (len(lines["1_2"]), len(lines["2_2"])) == (3, 2)
    assert sorted(lines["1_2"] + lines["2_2"]) == sorted(lines["1_1"])
    assert all(json.loads(line)["caption"] for line in lines["1_1"])
    assert main(["--out", str(tmp_path / "x"), "--share", "3/2", *command]) == 2
    assert "--share is '3/2'" in caplog.records[-1].getMessage()


def test_processes_of_one_launch_share_the_pictures_and_one_file(tmp_path):
    """Started by torchrun, over what a killed launch of more processes has left."""
    (tmp_path / "pictures").mkdir()
    for index in range(5):
        Image.fromarray(np.full((16, 16, 3), 40 * index, np.uint8)).save(tmp_path / f"pictures/{index}.png")
    out = tmp_path / "captions.jsonl"
    command = ["--tagger", "appearance", "--device", "cpu", "--out", str(out), str(tmp_path / "pictures")]
    assert main(command) == 0
    whole = read_captions(out)
    first, second, third, *_ = out.read_text().splitlines(keepends=True)
    out.write_text(first + third[:9])  # torn
    Path(f"{out}.part3").write_text(second)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    found = subprocess.run(
        [*launch, "-m", "training.caption", *command],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    assert read_captions(out) == whole and len(out.read_text().splitlines()) == 5
    assert list(tmp_path.glob("*part*")) == [] and found.stderr.count("5 captions in") == 1
