"""A batch on Ray: the files and records of the plain command, whatever dies on the way, and nothing open to others."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cluster_pictures import LONG, ROOT, ended, files_in, noise

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[cluster]'")

from osediff_core.cluster.manifest import read_manifest
from osediff_core.cluster.session import listening_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals and names of Unix")]


def records_of(out):
    """Input -> record, without what differs between two runs."""
    found = {record["input"]: record for record in json.loads(out)["results"]}
    for record in found.values():
        del record["seconds"], record["output"]
    return found


def wait_for_pictures(process, folder, count):
    until = time.monotonic() + LONG
    while len(list(folder.glob("*.png"))) < count and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def family(process):
    one = psutil.Process(process.pid)
    return [one, *one.children(recursive=True)]


def test_ray_gives_what_the_plain_command_gives_and_outlives_every_picture(tmp_path, mixed, small, start):
    status, plain, err = ended(start("-o", "plain", "--recursive", "--json", *small))
    assert status == 1, err
    for name in ("poison.png", "exit.png", "memory.png"):
        noise(0).save(mixed / name)
    options = ["-o", "ray", "--recursive", "--engine", "ray", "--attempts", "1", *small]
    process = start(*options, "--json")
    seen, open_ones = set(), set()
    wait_for_pictures(process, tmp_path / "ray", 1)
    for one in family(process):
        seen.add(one.name())
        open_ones |= listening_of(one)
    assert "raylet" in seen and not open_ones
    status, out, err = ended(process)
    assert status == 1 and "Traceback" not in err, err
    report, before = records_of(out), records_of(plain)
    for name in ("poison.png", "exit.png"):
        assert report.pop(f"in/{name}")["kind"] == "WorkerDied"
    assert report.pop("in/memory.png")["kind"] == "MemoryError"
    assert report == before
    assert files_in(tmp_path / "ray") == files_in(tmp_path / "plain")
    rows = read_manifest(tmp_path / "ray/_manifest")
    assert {row["input"] for row in rows} == {*before, "in/poison.png", "in/exit.png", "in/memory.png"}
    assert next(row for row in rows if row["input"] == "in/poison.png")["attempt"] == 2

    # what is done stays done, without a start of Ray; results of other options are not mixed in
    for name in ("poison.png", "exit.png", "memory.png", "cut.png", "empty.png"):
        (mixed / name).unlink()
    status, out, err = ended(start(*options, "--json"))
    assert status == 0 and json.loads(out)["skipped"] == len(before) - 2, err
    status, out, err = ended(start(*options, "--fidelity", "0.5"))
    assert status == 2 and "fidelity: 0.0, now 0.5" in err and len(err.splitlines()) == 1


def test_ctrl_c_ends_ray_and_the_next_run_goes_on(tmp_path, small, start):
    (tmp_path / "in").mkdir()
    for number in range(30):
        noise(number).save(tmp_path / f"in/{number:02}.png")
    options = ["-o", "out", "--engine", "ray", *small, "--json"]
    process = start(*options, TEST_PAUSE="0.5")
    wait_for_pictures(process, tmp_path / "out", 3)
    running = family(process)
    process.send_signal(signal.SIGINT)
    status, out, err = ended(process)
    assert status == 130 and "Traceback" not in err, err
    assert not psutil.wait_procs(running[1:], timeout=30)[1]
    done = files_in(tmp_path / "out")
    report = json.loads(out)
    assert report["restored"] == len(done) and report["restored"] + report["not_done"] == 30
    assert all(name.endswith(".png") for name in done)
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in done}
    status, out, err = ended(start(*options))
    assert status == 0, err
    assert json.loads(out)["skipped"] == len(done) and len(files_in(tmp_path / "out")) == 30
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time for name, time in times.items())


def test_a_machine_that_dies_costs_nothing(tmp_path, small, start):
    """Three machines in processes of this one; one of the two that work is killed."""
    (tmp_path / "in").mkdir()
    for number in range(24):
        noise(number).save(tmp_path / f"in/{number:02}.png")
    head = tmp_path / "machines.py"
    head.write_text(MACHINES)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {**token, "OMP_NUM_THREADS": "1", "TEST_PAUSE": "0.5", "RAY_worker_niceness": "0"}
    machines = subprocess.Popen(
        [sys.executable, str(head)], cwd=tmp_path, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        address = machines.stdout.readline().strip()
        process = start(
            "-o", "out", "--engine", "ray", "--address", address, "--actors", "2", *small, "--json", **token
        )
        wait_for_pictures(process, tmp_path / "out", 6)
        machines.stdin.write("kill\n")
        machines.stdin.flush()
        status, out, err = ended(process)
    finally:
        machines.communicate("end\n", timeout=LONG)
    assert status == 0, err
    assert json.loads(out)["restored"] == 24
    status, _, err = ended(start("-o", "plain", *small, "--json"))
    assert status == 0, err
    assert files_in(tmp_path / "out") == files_in(tmp_path / "plain")
    assert len(read_manifest(tmp_path / "out/_manifest")) == 24


MACHINES = """
import os, sys, tempfile
os.makedirs(os.path.join(tempfile.gettempdir(), "ray"), exist_ok=True)
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "kill":
        cluster.remove_node(nodes[0], allow_graceful=False)
    else:
        break
cluster.shutdown()
"""


def test_actors_that_do_not_fit_are_refused(tmp_path, small, start):
    (tmp_path / "in").mkdir()
    noise(0).save(tmp_path / "in/a.png")
    status, _, err = ended(start("-o", "out", "--engine", "ray", "--gpus-per-actor", "64", *small))
    assert status == 2 and "--gpus-per-actor 64" in err and len(err.splitlines()) == 1


def test_a_model_that_cannot_be_loaded_ends_the_run(tmp_path, start):
    (tmp_path / "in").mkdir()
    noise(0).save(tmp_path / "in/a.png")
    status, out, err = ended(start("-o", "out", "--engine", "ray", "--base", "no-such-base", "--json"))
    assert status == 1 and json.loads(out)["kind"] == "BaseModelError", err
    assert len(err.splitlines()) == 1 and not Path(tmp_path, "out/_manifest").exists()
