"""Pushes while a run goes on (`hub_strategy: every_save`) and at its end; a failure is a warning, never the run's end.

Input: the plan of a run. Output: commits on the Hub, made by the main process alone; no other process waits for it.
"""

import shlex
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rbft_trl.errors import UserError
from rbft_trl.hub.pushing import PushOptions, push_folder
from rbft_trl.model.provenance import read_record, whole_record
from rbft_trl.plan import Plan

LONGEST_WAIT = 1800.0  # seconds for the push of the last checkpoint, before the push at the end


class PushInRun:
    """The pushes of one run.

    Args:
        plan (`Plan`): The run.
    """

    def __init__(self, plan: Plan) -> None:
        training = plan.training
        self.folder, self.card = Path(training.output_dir), plan.task.card
        self.is_main = PartialState().is_main_process
        self.options = PushOptions(
            repo=training.hub_model_id or "",
            private=training.hub_private_repo is not False,
            base_id=training.hub_base_id,
            base_revision=training.hub_base_revision,
            license=training.hub_license,
        )
        self.running: threading.Thread | None = None

    def saved(self, folder: Path, record: dict[str, Any]) -> None:
        """Pushes a checkpoint in the background; while an earlier one is under way, this one is left out."""
        if self.running is not None and self.running.is_alive():
            print(f"the push of an earlier checkpoint goes on; '{folder.name}' is not pushed")
            return
        record = whole_record(self.card, record) | {"unfinished": True}
        ready, work = threading.Event(), lambda: self._push(folder, record, ready)
        self.running = threading.Thread(target=work, name="push", daemon=True)
        self.running.start()
        ready.wait()  # until its files are linked or copied: the trainer may delete this checkpoint

    def at_end(self) -> None:
        """Pushes what the run wrote."""
        if not self.is_main:
            return
        if self.running is not None:
            self.running.join(LONGEST_WAIT)
        self._push(self.folder, read_record(self.folder), threading.Event())

    def _push(self, folder: Path, record: dict[str, Any], ready: threading.Event) -> None:
        """One push; whatever happens is told in one sentence, with the command that repeats it."""
        try:
            push_folder(folder, record, self.card, self.options, ready=ready)
        except Exception as error:  # of our own or of the client: a push must not end a training run
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            way_out = f"the model is safe in '{folder}', push it with: {self.command()}"
            if record.get("unfinished"):
                way_out = "the run goes on, and the next checkpoint and its end are pushed again"
            warnings.warn(f"{' '.join(said.split())}; {way_out}", stacklevel=2)
        finally:
            ready.set()

    def command(self) -> str:
        """The command that makes the push at the end again."""
        options = self.options
        words = ["python", "rbft_trl/push.py", str(self.folder), "--repo", options.repo]
        words += [] if options.private else ["--private", "false"]
        for key in ("base_id", "base_revision", "license"):
            words += [f"--{key}", str(getattr(options, key))] if getattr(options, key) else []
        return shlex.join(words)


class PushSaves(TrainerCallback):
    """Pushes every checkpoint that the trainer saves."""

    def __init__(self, push: PushInRun, record: Callable[[Path], dict[str, Any]]) -> None:
        self.push, self.record = push, record

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the push of the checkpoint that was just saved."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.push.saved(folder, self.record(folder))
