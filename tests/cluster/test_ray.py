"""A batch on Ray: the files and records of the plain command, whatever dies on the way, and nothing open to others."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest
from cluster_pictures import LONG, ROOT, ended, files_in, noise, png, write_tar

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[cluster]'")

from osediff_core.batch.places import place_of
from osediff_core.cluster.manifest import read_manifest
from osediff_core.cluster.session import listening_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(os.name == "nt", reason="signals and names of Unix"),
]


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


def test_ray_gives_what_the_plain_command_gives_and_outlives_every_picture(
    tmp_path, mixed, small, start, offline
):
    """The test plan's points 1, 3, 5, 6 and 9: also without any network, where the system lets one take it away."""
    status, plain, err = ended(start("-o", "plain", "--recursive", "--json", *small))
    assert status == 1, err
    for name in ("poison.png", "exit.png", "memory.png"):
        noise(0).save(mixed / name)
    options = ["-o", "ray", "--recursive", "--engine", "ray", "--attempts", "1", *small]
    process = start(*options, "--json", before=offline)
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


@pytest.fixture
def offline():
    """Words before a command line that leave it the loopback interface alone."""
    words = ["unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
    try:
        works = not subprocess.run([*words, "true"], capture_output=True).returncode
    except OSError:
        works = False
    return words if works else []


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
    """Three machines in processes of this one; of the two that work one is killed, then the other, and one is added."""
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
        for count, words in ((6, ["kill"]), (12, ["kill", "add"])):
            wait_for_pictures(process, tmp_path / "out", count)
            machines.stdin.write("".join(f"{word}\n" for word in words))
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
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
    elif line.strip() == "add":
        nodes.append(cluster.add_node(num_cpus=2))
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


def test_tars_in_a_bucket_become_tars_in_a_bucket_and_a_killed_run_goes_on(tmp_path, small, start, bucket):
    """Also: no secret is in what is sent to workers, and a picture in a tar that kills them is one failure."""
    write_tar(
        tmp_path / "poisoned.tar", {"a.png": png(0), "b.txt": b"b", "die.png": b"poison", "z.png": png(1)}
    )
    bucket.put("in/poisoned.tar", (tmp_path / "poisoned.tar").read_bytes())
    for number in range(12):
        write_tar(tmp_path / "one.tar", {f"{number}.png": png(number), f"{number}.txt": b"text"})
        bucket.put(f"in/{number:02}.tar", (tmp_path / "one.tar").read_bytes())
    options = ["-o", "s3://pictures/out", "--engine", "ray", "--attempts", "1", *small, "--json"]
    process = start(*options, source="s3://pictures/in", TEST_INSIDE="1", TEST_PAUSE="0.5")
    until = time.monotonic() + LONG
    while len(bucket.files("out/")) < 4 and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    running = family(process)
    process.kill()
    process.communicate()
    for one in running[1:]:  # what `ray stop` is for
        if one.is_running():
            one.kill()
    psutil.wait_procs(running, timeout=30)
    before = bucket.times("out/")
    assert {name.rpartition(".")[2] for name in before} <= {"tar", "json", "parquet"}
    done = {name: when for name, when in before.items() if name.endswith(".tar")}
    status, out, err = ended(start(*options, source="s3://pictures/in", TEST_INSIDE="1"))
    assert status == 1, err
    document = json.loads(out)
    assert document["skipped"] == len(done) and document["restored"] + len(done) == 12 + 2 - (
        "poisoned.tar" in done
    )
    assert [one["input"] for one in document["results"] if one["status"] == "failed"] == [
        "s3://pictures/in/poisoned.tar/die.png"
    ]
    after = bucket.times("out/")
    assert done.items() <= after.items()
    names = [f"{number:02}.tar" for number in range(12)] + ["poisoned.tar"]
    assert sorted(name for name in after if name.endswith(".tar")) == names
    (tmp_path / "poisoned.tar").write_bytes(bucket.get("out/poisoned.tar"))
    with tarfile.open(tmp_path / "poisoned.tar") as archive:
        assert archive.getnames() == ["a.png", "b.txt", "z.png"]
    rows = read_manifest(place_of("s3://pictures/out/_manifest"))
    assert {row["status"] for row in rows} <= {"restored", "failed", "skipped"}


def test_captions_are_made_on_ray(tmp_path, start):
    pytest.importorskip("datasets", reason="the trainer is not installed: pip install -e '.[train]'")
    (tmp_path / "in").mkdir()
    for number in range(4):
        noise(number, size=(64, 64)).save(tmp_path / f"in/{number}.png")
    (tmp_path / "in/broken.png").write_bytes(b"broken")
    made = {}
    for name, options in (("plain", []), ("ray", ["--engine", "ray"])):
        command = [
            sys.executable,
            "-m",
            "training.caption",
            "in",
            "--tagger",
            "appearance",
            "--out",
            f"{name}.jsonl",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(
            [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert ran.returncode == 0 and "broken.png" in ran.stderr, ran.stderr
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        made[name] = {line["name"]: line["caption"] for line in map(json.loads, lines)}
    assert made["ray"] == made["plain"] and len(made["ray"]) == 4
