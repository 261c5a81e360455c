"""How training stops: at the end of a step that all processes agree on, or since a clip could not be read in time.

Input: SIGTERM, noted by rbft_trl/stopping.py; loaders of clips. Output: a checkpoint that resumes exactly, `Stopped`.
"""

import functools
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from rbft_trl.errors import UserError
from rbft_trl.stopping import Stopped, noted

SECONDS_PER_CLIP, LEAST_SECONDS = 10, 120  # that a loader waits for a batch; every clip was once read in 7


def agreed(accelerator: Accelerator) -> bool:
    """Whether any process was asked to stop; every process must call this, and all get the same answer."""
    if accelerator.num_processes == 1:
        return noted()
    return bool(accelerator.reduce(torch.tensor([int(noted())], device=accelerator.device)).item())


@contextmanager
def ending(accelerator: Accelerator) -> Iterator[None]:
    """Ends trackers and the group of processes in every case; one that failed does not wait for the others."""
    try:
        try:
            yield
        except Stopped:
            accelerator.wait_for_everyone()
            raise
        accelerator.wait_for_everyone()
    finally:
        accelerator.end_training()


class SetEpoch(TrainerCallback):
    """Tells `WeightedSampler` its epoch, which upstream does not after a resume within one, on two or more processes.

    There the batches to skip and the processes' shards are two wrappers around a sampler of ours, and accelerate 1.15
    looks through one: the rest of the epoch would be drawn in the order of epoch 0.
    """

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Goes through the loader without the batches to skip; both hold the same sampler."""
        train_dataloader.set_epoch(int(state.epoch or 0))


class StopAtStep(TrainerCallback):
    """Saves and raises `Stopped` at the end of a step, once any process was asked to stop.

    What is due at that step (an evaluation, a log) is done first, and nothing else: so the run that goes on from the
    checkpoint has done what the undisturbed run has done. A run in its last step ends as usual.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.asked, self.saving = accelerator, False, False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Asks for the checkpoint, unless the end of the epoch, which comes next, has something to do before."""
        if control.should_training_stop:
            return
        self.asked = self.asked or agreed(self.accelerator)
        if self.asked and not _epoch_end_is_due(args, state):
            self._save(args, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Asks for the checkpoint after the evaluation that ends the epoch."""
        if self.asked and not control.should_training_stop:
            self._save(args, control)

    def _save(self, args: TrainingArguments, control: TrainerControl) -> None:
        if args.save_strategy == SaveStrategy.BEST and control.should_evaluate:
            return  # that evaluation decides whether to save: stop one step later
        control.should_save = self.saving = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leaves the training loop; what upstream does at its end (loading the best, deleting) must not happen."""
        if self.saving:
            raise Stopped(
                f"stopped after step {state.global_step} of {state.max_steps}, checkpoint in '{args.output_dir}'",
                "the same command with --resume_from_checkpoint true goes on",
            )


def _epoch_end_is_due(args: TrainingArguments, state: TrainerState) -> bool:
    per_epoch = IntervalStrategy.EPOCH in (args.eval_strategy, args.logging_strategy)
    return (per_epoch or args.save_strategy == SaveStrategy.EPOCH) and float(state.epoch).is_integer()


def guarded(loader: DataLoader, *, clips: int) -> DataLoader:
    """A loader whose processes do not die of a SIGTERM sent to all, and which does not wait for a clip for ever.

    Args:
        loader (`DataLoader`): Of `Trainer`; one without processes reads in this process, without a limit.
        clips (`int`): Clips per batch.
    """
    if loader.num_workers > 0:
        inner = getattr(loader, "base_dataloader", loader)  # accelerate's wrapper hands everything on to it
        inner.worker_init_fn = functools.partial(_begin_reading, inner.worker_init_fn)
        inner.timeout = max(LEAST_SECONDS, SECONDS_PER_CLIP * clips)
    return loader


def _begin_reading(seed: Callable[[int], None] | None, worker: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM and torch's agent send it to every process
    if seed is not None:
        seed(worker)


@contextmanager
def readers_told() -> Iterator[None]:
    """Tells in one sentence that a process which reads clips died or hangs.

    Raises:
        UserError: with the way out.
    """
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:  # the last two: it died while it handed over a batch
        if isinstance(error, RuntimeError) and "DataLoader" not in str(error):
            raise
        if hasattr(signal, "SIGCHLD"):  # torch's handler would raise once more, in the midst of telling
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"a process that reads clips was killed or hangs ({what}); look for a clip or disk that does not answer, "
            "or too little memory, then go on with --resume_from_checkpoint true"
        ) from error
