"""One part of a driver as an `accelerate launch` of its own, so that it can have several processes.

Input: a launch file, an entry and its command line. Output: what the entry writes; its failure as ours.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from rbft_trl.errors import TELL, NothingKept, UserError
from rbft_trl.stopping import EXIT_CODE, Stopped, listening, noted
from rbft_trl.yaml_file import read_mapping


def check_launch_file(launch_file: str | None) -> None:
    """A launch file is there and holds keys; which of them accelerate knows, it says itself.

    Raises:
        UserError: if it is missing, or no YAML.
    """
    if launch_file is not None:
        read_mapping(Path(launch_file), what="launch file", example="name one of accelerate_configs/, or leave it out")


def processes_of(launch_file: str | None) -> int:
    """How many processes a part has at least: without a number accelerate starts one per GPU, and here is just one."""
    known = read_mapping(Path(launch_file), what="launch file", example="").get("num_processes") if launch_file else 1
    return known if isinstance(known, int) else 1


def run_launched(launch_file: str, entry: str, argv: list[str]) -> None:
    """Runs rbft_trl/`entry`.py under accelerate and waits for it; SIGTERM is passed on.

    Raises:
        NothingKept: as the entry did, whose exit code accelerate does not pass on.
        UserError: if it failed otherwise; what it said stands above.
        Stopped: if it was asked to stop, and did so in order.
    """
    script = Path(__file__).with_name(f"{entry}.py")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", launch_file, str(script), *argv]
    with listening(), tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "told")
        process, asked = subprocess.Popen(command, env=os.environ | {TELL: str(told)}), False
        while (code := _ended(process)) is None:
            if noted() and not asked:
                process.terminate()
                asked = True
        why = told.read_text(encoding="utf-8") if told.is_file() else ""
    if asked or code in (EXIT_CODE, -signal.SIGTERM):
        raise Stopped("stopped, as it was asked to")
    if code and why:
        raise NothingKept(why)
    if code:
        raise UserError(f"rbft_trl/{entry}.py ended with exit code {code}; its message stands above")


def _ended(process: subprocess.Popen) -> int | None:
    try:
        return process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        return None
