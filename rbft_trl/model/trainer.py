"""Thin children of TRL's SFTTrainer: flat rows of clips, one learning rate per part, labels scored at evaluation.

`RationaleTrainer` is stage 1, `LabelTrainer` is stage 2 and direct SFT; they differ in name, tags and what they log.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import TrainingArguments, get_scheduler
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTTrainer

from rbft_trl.data.jsonl import write_json
from rbft_trl.errors import UserError
from rbft_trl.model.collator import IGNORED
from rbft_trl.model.loading import trainable_parameters
from rbft_trl.model.shards import size_of
from rbft_trl.model.stop import guarded
from rbft_trl.model.whole import complete_or_absent

PROGRESS_FILE = "progress.json"
Scorer = Callable[[torch.nn.Module, list[dict[str, Any]]], list[tuple[str, bool]]]


def check_optimizer(args: TrainingArguments) -> None:
    """Makes optimizer and schedule once on one number, so that what they refuse is known before the model is loaded.

    Raises:
        UserError: for options that they do not take, or a package that is not there.
    """
    number = torch.nn.Parameter(torch.zeros(1))
    try:
        kind, options = SFTTrainer.get_optimizer_cls_and_kwargs(args)
        optimizer = kind([number], **{key: value for key, value in options.items() if key != "params"})
        get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=0,
            num_training_steps=10,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
    except (ImportError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"optim '{_word(args.optim)}' with lr_scheduler_type '{_word(args.lr_scheduler_type)}' cannot be made: "
            f"{said}; choose others, or correct their options"
        ) from error


def _word(choice: Any) -> str:
    return str(getattr(choice, "value", choice))


class VideoSFTTrainer(SFTTrainer):
    """SFTTrainer for rows {id, video, label, target, text}: the collator reads the clips, so nothing is prepared.

    TRL has no video path (trl#4002, trl#4144). The seams used are `_prepare_dataset`,
    `_set_signature_columns_if_needed`, `create_optimizer`, `compute_loss` before `super()`, `evaluate`, and for
    checkpoints that are complete or absent `_save_checkpoint` around `super()` and `_get_output_dir`.
    """

    _tag_names = ["trl", "sft", "rbft", "video-classification"]
    score_validation: Scorer | None = None
    presentations = 0
    seconds_before = 0.0  # of the processes that were stopped, up to the checkpoint that is resumed
    started: float | None = None
    row_weights: list[float] | None = None
    saving_into: Path | None = None

    @property
    def seconds(self) -> float:
        """How long the steps up to now took, over all processes that a resumed run had."""
        return self.seconds_before + (time.perf_counter() - self.started if self.started is not None else 0.0)

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["id", "video", "label", "target", "text", "prompt", "order", "weight"]

    def get_train_dataloader(self) -> Any:
        """Upstream's, whose processes outlive a SIGTERM to all and are not waited for without a limit."""
        return guarded(super().get_train_dataloader(), clips=self.args.per_device_train_batch_size)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """All validation clips: `dataloader_drop_last` is about training batches, upstream drops clips here too."""
        kept, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            loader = super().get_eval_dataloader(*args, **kwargs)
            return guarded(loader, clips=self.args.per_device_eval_batch_size)
        finally:
            self.args.dataloader_drop_last = kept

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.saving_into or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Upstream's files, the clips shown and the time, complete or absent; older ones are deleted at last."""
        final = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        trained = sum(size_of(p) * p.element_size() for _, _, p in trainable_parameters(self.model))
        with complete_or_absent(final, expected=3 * trained, writes=self.args.should_save) as self.saving_into:
            try:
                super()._save_checkpoint(model, trial)
                self._complete(self.saving_into / final.name, final)
            finally:
                self.saving_into = None
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(self.args.output_dir, self.args.save_total_limit, best, use_mtime=True)

    def _complete(self, written: Path, final: Path) -> None:
        if self.state.best_model_checkpoint == str(written):  # its name from now on
            self.state.best_model_checkpoint = str(final)
        if self.args.should_save:
            self.state.save_to_json(str(written / "trainer_state.json"))
            write_json(written / PROGRESS_FILE, {"presentations": self.presentations, "seconds": self.seconds})

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer that `optim` names, with one group per part: parts may have learning rates of their own."""
        if self.optimizer is None:
            opt_model = self.model if model is None else model
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, opt_model)
            self.optimizer_cls_and_kwargs = (optimizer_class, {**kwargs, "params": self._groups(opt_model)})
        return super().create_optimizer(model)

    def _groups(self, model: torch.nn.Module) -> list[dict[str, Any]]:
        decayed = set(self.get_decay_parameter_names(model))
        rates = {"merger": self.args.learning_rate_merger, "vision": self.args.learning_rate_vision}
        groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
        for part, name, parameter in trainable_parameters(model):
            groups.setdefault((part, name in decayed), []).append(parameter)
        return [
            {
                "params": parameters,
                "weight_decay": self.args.weight_decay if decay else 0.0,
                "lr": self.args.learning_rate if rates.get(part) is None else rates[part],
            }
            for (part, decay), parameters in groups.items()
        ]

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Counts the clips that were shown, weighs tokens where the collator says so, then leaves the loss to TRL."""
        if self.model.training:
            self.presentations += len(inputs["input_ids"]) * self.accelerator.num_processes
        weights, _ = inputs.pop("loss_weights", None), inputs.pop("loss_items", None)
        weighed = model if weights is None else _Weighed(model, weights)
        return super().compute_loss(weighed, inputs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.row_weights is None:
            return super()._get_train_sampler(train_dataset)
        return WeightedSampler(self.row_weights, seed=self.args.seed)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Adds the accuracy of the one label scorer to TRL's evaluation loss, so the best checkpoint can follow it."""
        accuracy = None if self.score_validation is None else self._validation_accuracy(self.score_validation)
        if accuracy is not None:
            self._metrics["eval"]["accuracy"].append(accuracy)  # logged with the loss
        metrics = super().evaluate(*args, **kwargs)
        return metrics if accuracy is None else metrics | {"eval_accuracy": accuracy}

    def _validation_accuracy(self, score: Scorer) -> float:
        rows = self.eval_dataset.to_list()
        was_training = self.model.training
        self.model.eval()
        with self.accelerator.split_between_processes(rows) as own:
            right = dict(gather_object(score(self.accelerator.unwrap_model(self.model), own)))
        self.model.train(was_training)
        assert right.keys() == {row["id"] for row in rows}, "every validation clip is scored exactly once"
        return sum(right.values()) / len(right)


class _Weighed:
    """A model whose token log-probabilities are multiplied by a weight each, `[B, S]`; TRL sums them to the loss."""

    def __init__(self, model: torch.nn.Module, weights: torch.Tensor) -> None:
        self.model, self.weights = model, weights

    def __call__(self, **inputs: Any) -> Any:
        out = self.model(**inputs)
        out.log_probs = out.log_probs * self.weights.to(out.log_probs)[:, 1:]  # the first token is not predicted
        return out


class WeightedSampler(Sampler[int]):
    """As many rows per epoch as there are, drawn with replacement by weight; an epoch's order depends on its number
    alone, so that a resumed run goes on with the same rows."""

    def __init__(self, weights: list[float], *, seed: int) -> None:
        self.weights, self.seed, self.epoch = torch.tensor(weights, dtype=torch.float64), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Accelerate calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.multinomial(self.weights, len(self), replacement=True, generator=generator).tolist())


class RationaleTrainer(VideoSFTTrainer):
    """Stage 1 of RB-FT (arXiv 2511.15923): the model learns to write rationales; logs their length too."""

    _tag_names = [*VideoSFTTrainer._tag_names, "rationale"]
    _name = "RB-FT stage 1"

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Logs `answer_tokens`, the mean number of trained tokens per clip."""
        answers = (inputs["labels"] != IGNORED).sum().item() / len(inputs["labels"])
        self._metrics["train" if self.model.training else "eval"]["answer_tokens"].append(answers)
        return super().compute_loss(model, inputs, *args, **kwargs)


class JointTrainer(VideoSFTTrainer):
    """Labels and rationales at once, the loss MTCT of RD-MLDG (arXiv 2602.23777): the mean over the rows of a step of
    -log p(label) - 1/T sum of log p(token of the rationale), so that long rationales do not outweigh labels."""

    _tag_names = [*VideoSFTTrainer._tag_names, "joint"]
    _name = "RB-FT with a joint loss"

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """Upstream's, but the loss of a step is divided by its rows (of all processes) and not by its tokens."""
        samples, tokens = super().get_batch_samples(*args, **kwargs)
        if not samples or tokens is None:
            return samples, tokens
        rows = sum(batch["loss_items"].sum() for batch in samples).to(self.accelerator.device)
        if self.args.average_tokens_across_devices:
            rows = self.accelerator.reduce(rows, reduction="sum")
        return samples, rows


class LabelTrainer(VideoSFTTrainer):
    """Stage 2 of RB-FT, and direct SFT: the model learns the bare class name."""

    _tag_names = [*VideoSFTTrainer._tag_names, "label"]
    _name = "RB-FT stage 2"
