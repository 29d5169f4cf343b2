"""The batch file for SLURM: its syntax, and what it starts, with stand-ins for the two commands of a cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_settings import soft_pictures, write_settings

ROOT = Path(__file__).parents[2]
BATCH = ROOT / "training/configs/slurm/osediff.sbatch"


def test_its_directives_are_options_of_sbatch():
    subprocess.run(["bash", "-n", BATCH], check=True)
    lines = BATCH.read_text().splitlines()
    given = [line.split()[1] for line in lines if line.startswith("#SBATCH")]
    known = (
        "job-name",
        "nodes",
        "ntasks-per-node",
        "gres",
        "cpus-per-task",
        "mem",
        "time",
        "signal",
        "requeue",
        "output",
    )
    assert given and all(option.removeprefix("--").partition("=")[0] in known for option in given)
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])  # sbatch would not see it


@pytest.mark.slow
def test_two_processes_train_and_a_second_submission_goes_on(mini_base, tmp_path):
    commands = tmp_path / "bin"
    commands.mkdir()
    # a cluster of this one node: srun runs the command that it is given
    (commands / "srun").write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    (commands / "scontrol").write_text("#!/bin/bash\necho 127.0.0.1\n")
    for command in commands.iterdir():
        command.chmod(0o755)
    (tmp_path / "pictures").mkdir()
    config = {
        "output": str(tmp_path / "run"),
        "steps": 1,
        "batch": 1,
        "device": "cpu",
        "loggers": [],
        "data": {
            "sources": [{"path": str(soft_pictures(tmp_path / "pictures", 2, (12, 9), (48, 36)))}],
            "resolution": 32, "degradation": "light", "workers": 0,
        },
        "model": {"base": str(mini_base)},
        "loss": {"perceptual": 0.0},
    }  # fmt: skip
    path = write_settings(tmp_path / "config.yaml", config, {})
    environment = os.environ | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node",
        "SLURM_JOB_NUM_NODES": "1",
        "GPUS_PER_NODE": "2",
        "PORT": "29471",
        "ACCELERATE_USE_CPU": "true",
    }
    for steps in (1, 2):
        line = ["bash", BATCH, path, f"steps={steps}"]
        found = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert found.returncode == 0, found.stderr[-3000:]
    assert '"processes": "2"' in (tmp_path / "run/run.json").read_text()
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {
        "step_00000001",
        "step_00000002",
    }
