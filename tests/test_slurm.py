"""slurm.sh with stand-ins for srun and scontrol on loopback: real launchers, machine ranks 0 and 1."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rbft_trl.model.provenance import read_record
from tests.helpers import REPOSITORY, toy_recipe
from tests.launching import cpu_twin

SCRIPT = REPOSITORY / "accelerate_configs/slurm.sh"
SRUN = """#!/usr/bin/env bash
shift  # --ntasks-per-node=1
for node in 0 1; do SLURM_NODEID=$node "$@" & tasks+=($!); done
trap 'kill -TERM "${tasks[@]}"; again=1' TERM
worst=0
for task in "${tasks[@]}"; do
  again=1; while [ "$again" = 1 ]; do again=0; wait "$task"; code=$?; done
  [ "$code" = 0 ] || worst=$code
done
exit $worst
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two nodes that are both this machine."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text(SRUN)
    (programs / "scontrol").write_text("#!/bin/sh\nprintf '127.0.0.1\\nnode1\\n'\n")
    (programs / "accelerate").write_text(
        f'#!/bin/sh\nshift\nexec {sys.executable} -m accelerate.commands.launch "$@"\n'
    )
    for program in programs.iterdir():
        program.chmod(0o755)
    names = {"PATH": f"{programs}:{os.environ['PATH']}", "LAUNCH_FILE": str(cpu_twin(tmp_path, "multi_node"))}
    names |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[0-1]"}
    return os.environ | names | {"PROCESSES_PER_NODE": "1"}


def test_a_recipe_runs_on_two_nodes(cluster: dict, toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    quick = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **quick, output_dir=tmp_path / "run")
    command = ["bash", str(SCRIPT), "rbft_trl/sft.py", recipe, "--per_device_train_batch_size", "2"]
    done = subprocess.run(command, cwd=REPOSITORY, env=cluster, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    record = read_record(tmp_path / "run")
    assert record["recipe"]["processes"] == 2 and record["presentations"] == 2 * 2 * 2


def test_sigterm_reaches_the_training_processes_and_not_their_launcher(cluster: dict, tmp_path: Path) -> None:
    entry = tmp_path / "waits.py"
    entry.write_text(
        "import os, pathlib, signal, time\n"
        "place = pathlib.Path(__file__).parent / ('rank' + os.environ['RANK'])\n"
        "def stop(*_):\n"
        "    time.sleep(1)\n"
        "    place.write_text('stopped')\n"
        "    os._exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "place.write_text('ready')\n"
        "time.sleep(600)\n"
    )
    job = subprocess.Popen(["bash", str(SCRIPT), str(entry), "none.yaml"], cwd=REPOSITORY, env=cluster)
    ranks, deadline = [tmp_path / "rank0", tmp_path / "rank1"], time.time() + 300
    try:
        while not all(rank.is_file() and rank.read_text() == "ready" for rank in ranks):
            assert time.time() < deadline and job.poll() is None
            time.sleep(0.1)
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=300) == 0
    finally:
        job.kill()
    assert [rank.read_text() for rank in ranks] == ["stopped", "stopped"]


@pytest.mark.parametrize("argv", [[], ["rbft_trl/sft.py"], ["rbft_trl/none.py", "recipes/stage1.yaml"]])
def test_what_is_missing_is_said(cluster: dict, argv: list[str]) -> None:
    done = subprocess.run(["bash", str(SCRIPT), *argv], cwd=REPOSITORY, env=cluster, capture_output=True, text=True)
    assert done.returncode == 2 and ("usage: sbatch" in done.stderr or "no entry 'rbft_trl/none.py'" in done.stderr)


def test_the_script_is_sound() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", str(SCRIPT)]).returncode == 0
