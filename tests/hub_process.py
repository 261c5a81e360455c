"""A process with an environment of its own that runs entries one after another, as a user of the Hub would.

The Hub's client reads HF_ENDPOINT, HF_HUB_OFFLINE and HF_HOME when it is imported, so a test cannot change them for
itself; starting a process for each command would cost ten seconds of imports each.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbft_trl.hub.clean import is_public
from tests.helpers import REPOSITORY

# What every training in the tests of the Hub has: two steps, and where it pushes.
QUICK = {"max_steps": 2, "per_device_train_batch_size": 4, "eval_strategy": "no", "save_strategy": "no"}
QUICK |= {"load_best_model_at_end": False, "logging_steps": 1}
PUSH = {"push_to_hub": True, "hub_base_id": "org/base", "hub_private_repo": False, "hub_license": "apache-2.0"}

LOOP = """
import contextlib, importlib, io, json, os, sys, traceback, warnings
from rbft_trl.errors import UserError, run_entry
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    asked, out = json.loads(line), io.StringIO()
    os.chdir(asked["cwd"])
    os.environ.update(asked["env"])
    sys.argv = [asked["entry"], *asked["argv"]]
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), warnings.catch_warnings():
        warnings.simplefilter("default")
        try:
            if asked["entry"] == "python":
                exec(asked["argv"][0], {"__name__": "snippet"})
            else:
                run_entry(importlib.import_module("rbft_trl." + asked["entry"]).main)
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 1
    for key in asked["env"]:
        os.environ.pop(key)
    print(json.dumps([code, out.getvalue()]), file=answers, flush=True)
"""


@dataclass
class Done:
    """How a command ended: its exit code and what it printed."""

    code: int
    said: str


class HubProcess:
    """Runs entries in one process.

    Args:
        env (`dict`): Its environment (`HubServer.env`).
        cwd (`Path`): Where commands run.
    """

    def __init__(self, env: dict[str, str], cwd: Path) -> None:
        self.cwd = cwd
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOOP],
            env=env | {"PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=cwd,
        )

    def run(self, entry: str, *argv: Any, env: dict[str, str] | None = None) -> Done:
        """Runs `rbft_trl/ENTRY.py ARGV`, or with the entry `python` a snippet."""
        asked = {"entry": entry, "argv": [str(word) for word in argv], "cwd": str(self.cwd), "env": env or {}}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the process died in {entry}"
        return Done(*json.loads(answer))

    def ok(self, entry: str, *argv: Any) -> str:
        """As `run`, for a command that must succeed; returns what it printed."""
        done = self.run(entry, *argv)
        assert done.code == 0, done.said[-4000:]
        return done.said

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait(timeout=300)


def expect_clean(files: dict[str, bytes], *private: str) -> None:
    """Only known files, none of the texts that are private here, no token."""
    assert {"README.md", "rbft.json", "task_card.yaml", "recipe.yaml"} <= files.keys()
    for name, content in files.items():
        assert is_public(name) or name == ".gitattributes", name
        for word in (*private, "hf_loopback", "training_args"):
            assert word.encode() not in content, (name, word)
