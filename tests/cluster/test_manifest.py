"""`osediff manifest`, of what shards without Ray have written side by side."""

import json

import pytest
from cluster_pictures import ROOT, noise
from PIL import Image

from osediff_core.cli import main as cli

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install -e '.[cluster]'")


@pytest.fixture
def osediff(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*args):
        status = cli.main([*map(str, args), "--no-progress"])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run


def test_a_run_in_shards_is_summed_up_as_a_table_and_a_plot(osediff, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(5):
        noise(number).save(tmp_path / f"in/{number}.png")
    (tmp_path / "in/bad.png").write_bytes(b"bad")
    whole = osediff("degrade", "in", "-o", "whole")[1]
    assert whole.startswith("5 degraded, 0 skipped, 1 failed")
    for shard in (1, 2):
        osediff("degrade", "in", "-o", "out", "--shard", f"{shard}/2", "--manifest", "report")
    for path in (tmp_path / "whole").iterdir():  # what is random goes by the place among all
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    status, out, err = osediff("manifest", "report", "--plot", "run.png", "--json")
    assert status == 0 and Image.open(tmp_path / "run.png").size[0] > 500, err
    found = json.loads(out)
    jsonschema = pytest.importorskip(
        "jsonschema", reason="jsonschema is not installed: pip install -e '.[test]'"
    )
    jsonschema.validate(found, json.loads((ROOT / "docs/cli.schema.json").read_text(encoding="utf-8")))
    assert found["by_status"] == {"degraded": 5, "failed": 1} and found["errors"] == {"ImageError": 1}
    assert [node["pictures"] for node in found["nodes"]] == [5] and len(found["slowest"]) == 5
    status, out, _ = osediff("manifest", "report")
    assert status == 0 and out.splitlines()[0] == "6 pictures: 5 degraded, 1 failed" and "in/bad.png" in out
    status, _, err = osediff("degrade", "in", "-o", "out", "--seed", "3", "--manifest", "report")
    assert status == 2 and "seed: 0, now 3" in err


@pytest.mark.parametrize(
    "options", [["none"], ["in"], ["report", "--plot", "x.bad"], ["report", "--plot", "no/x.png"]]
)
def test_what_is_no_manifest_is_said(osediff, tmp_path, options):
    (tmp_path / "in").mkdir()
    noise(0).save(tmp_path / "in/0.png")
    osediff("degrade", "in", "-o", "out", "--manifest", "report")
    status, _, err = osediff("manifest", *options)
    assert status in (1, 2) and len(err.splitlines()) == 1 and err.startswith("osediff: error: ")
