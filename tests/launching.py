"""Real processes under `accelerate launch`, from a shipped launch file; each writes down what it really was.

Wrong launch files silently start one process, or another engine than the one they name.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import REPOSITORY

ENTRIES = REPOSITORY / "rbft_trl"
COMPILES = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None or not (shutil.which("g++") or shutil.which("c++")),
    reason="DeepSpeed COMPILES an extension on a CPU: pip install deepspeed, and apt-get install g++",
)
WITNESS = """
import json, os, runpy, signal, sys
from pathlib import Path
from accelerate import Accelerator, PartialState
out, script = sys.argv[1], sys.argv[2]
sys.argv = [script, *sys.argv[3:]]
seen = {"wrapper": None, "zero": None, "layers": None, "losses": []}
if os.environ.get("ON_CPU"):
    import tests.fsdp_on_cpu as fsdp
from trl import SFTTrainer
compute, step = SFTTrainer.compute_loss, SFTTrainer.training_step
def compute_loss(self, model, *args, **kwargs):
    seen["wrapper"] = seen["wrapper"] or type(model).__name__
    if os.environ.get("ON_CPU"):
        seen["layers"] = fsdp.layers_of(model)
    if hasattr(model, "zero_optimization_stage"):
        seen["zero"] = model.zero_optimization_stage()
    return compute(self, model, *args, **kwargs)
def training_step(self, *args, **kwargs):
    loss = step(self, *args, **kwargs)
    seen["losses"].append(loss.item())
    if len(seen["losses"]) == int(os.environ.get("DIE_AFTER", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    return loss
SFTTrainer.compute_loss, SFTTrainer.training_step = compute_loss, training_step
end = Accelerator.end_training
def end_training(self):
    seen.update(world=self.num_processes, type=self.distributed_type.value, backend=PartialState().backend)
    Path(f"{out}.{self.process_index}").write_text(json.dumps(seen))
    return end(self)
Accelerator.end_training = end_training
runpy.run_path(script, run_name="__main__")
"""


def cpu_twin(folder: Path, name: str, **changes: Any) -> Path:
    """The launch file accelerate_configs/`name`.yaml on two CPU processes, in fp32; nothing else is changed."""
    config = yaml.safe_load((REPOSITORY / f"accelerate_configs/{name}.yaml").read_text(encoding="utf-8"))
    twin = folder / f"{name}.yaml"
    changes = {"use_cpu": True, "num_processes": 2, "mixed_precision": "no"} | changes
    twin.write_text(yaml.safe_dump(config | changes), encoding="utf-8")
    return twin


def start(folder: Path, config: Path, entry: str, *argv: str, options: tuple[str, ...] = (), **env: str) -> tuple:
    """Starts an entry under a launch file; returns the process, and where its processes will say what they were."""
    witness = folder / "witness.py"
    witness.write_text(WITNESS)
    out = folder / f"seen_{Path(entry).name}_{len(list(folder.iterdir()))}"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *options]
    command += ["--main_process_port", "0"] if "--main_process_port" not in options else []
    command += [str(witness), str(out), str(ENTRIES / f"{entry}.py"), *argv]
    told = (folder / f"{out.name}.log").open("wb")
    env |= {"PYTHONPATH": str(REPOSITORY)} if "ON_CPU" in env else {}  # the witness then needs tests/fsdp_on_cpu.py
    return subprocess.Popen(command, cwd=folder, stdout=told, stderr=told, env=os.environ | env), out


def launch(folder: Path, config: Path, entry: str, *argv: str, fails: bool = False, **env: str) -> list[dict]:
    """Runs an entry to its end; returns what each process was, or with `fails` what was printed."""
    process, out = start(folder, config, entry, *argv, **env)
    return ended(process, out, fails=fails)


def ended(process: subprocess.Popen, out: Path, *, fails: bool = False) -> Any:
    """Waits, with a limit, since a wrong engine hangs."""
    try:
        code = process.wait(timeout=600)
    finally:
        if process.poll() is None:
            process.terminate()  # the launcher then ends its workers
            process.wait(timeout=300)
    told = Path(f"{out}.log").read_text(errors="replace")
    assert (code != 0) == fails, told[-4000:]
    return told if fails else [json.loads(file.read_text()) for file in sorted(out.parent.glob(f"{out.name}.[0-9]*"))]
