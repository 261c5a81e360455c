"""A command as a process of its own, forked from one that has imported everything: most of a command is that import.

Working directory, environment, output and exit code are those of a fresh process. The import itself, and how an entry
finds its package, are what tests/test_entries.py runs real processes for.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess

from tests.helpers import REPOSITORY

ENTRIES = sorted(path.stem for path in (REPOSITORY / "rbft_trl").glob("*.py") if "run_entry(main)" in path.read_text())
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([f"rbft_trl.{name}" for name in ENTRIES])
SECONDS = 300


def run_forked(script: str | Path, *words: str | Path, cwd: Path) -> CompletedProcess[str]:
    """Runs `python SCRIPT WORDS` in `cwd`."""
    argv = [str(script), *map(str, words)]
    with tempfile.TemporaryDirectory() as folder:
        process = SERVER.Process(target=_work, args=(argv, str(cwd), dict(os.environ), folder))
        process.start()
        process.join(SECONDS)
        assert not process.is_alive(), f"{argv} hangs"
        out, err = ((Path(folder) / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    return CompletedProcess(argv, process.exitcode, out, err)


def _work(argv: list[str], cwd: str, environment: dict[str, str], folder: str) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # as in a fresh command; a child of a fork server has its
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")
