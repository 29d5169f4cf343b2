"""What docs/headless.md says to type: its curl lines and its Python program are run as they stand there."""

import re
import shutil
import subprocess
import sys
import time

import pytest
from PIL import Image
from server_graphs import ROOT

PAGE = (ROOT / "docs" / "headless.md").read_text()


def block(language):
    """The only code block of that language."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return code


def test_the_python_program(server, photo, tmp_path):
    program, result = tmp_path / "restore.py", tmp_path / "restored.png"
    program.write_text(block("python"))
    line = [sys.executable, program, photo, result, server.url]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with Image.open(result) as image:
        assert image.size == (192, 128)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("bash")), reason="there is no curl or no bash")
def test_the_curl_lines(server, client):
    script = block("sh").replace("http://127.0.0.1:8188", server.url)
    before = len(client.call("/history"))
    line = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert '"prompt_id"' in done.stdout and '"OSEDiff_Upscale"' in done.stdout
    while any(client.call("/queue").values()):  # it may have been interrupted, or not
        time.sleep(0.2)
    assert len(client.call("/history")) == before + 1
