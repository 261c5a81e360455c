"""The options of training: TRL's SFTConfig, what this project adds, and what it refuses with the reason.

Which other options an entry has is rbft_trl/configs.py.
"""

import importlib.util
from dataclasses import dataclass

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from trl import SFTConfig

from rbft_trl.configs import option
from rbft_trl.engines import SCORED, check_work, started_engine
from rbft_trl.errors import UserError, nearest
from rbft_trl.renamed import IGNORED_BY_US

PACKAGE_OF = {"azure_ml": "azureml", "dvclive": "dvclive", "clearml": "clearml", "flyte": "flytekitplugins"}


@dataclass
class TrainingConfig(SFTConfig):
    """TRL's SFTConfig with what this project adds or fixes. Refused settings are named in `IGNORED_BY_US`."""

    max_length: int | None = option(4096, "Most tokens (video and text) a row may have; longer rows stop the run.")
    bf16: bool | None = option(None, "Mixed precision; on by default on a GPU, off on a CPU.")
    activation_checkpointing: bool | None = option(None, "Recompute activations of the language model to save memory.")
    gradient_checkpointing: bool | None = option(None, "The old name of `activation_checkpointing`; refused.")
    learning_rate_merger: float | None = option(None, "Learning rate of the merger; `learning_rate` if left out.")
    learning_rate_vision: float | None = option(None, "Learning rate of the tower; `learning_rate` if left out.")
    remove_unused_columns: bool = option(False, "TRL's default is true; the collator reads our own columns.")
    push_to_hub: bool = option(False, "Push the model to `hub_model_id` (see `hub_strategy`); a failure ends no run.")
    hub_model_id: str | None = option(None, "Where to push: `user/name`.")
    hub_private_repo: bool | None = option(None, "Whether the repository is private when it is made; yes if left out.")
    hub_strategy: str = option(
        "end", "When to push: end, or every_save (and at the end).", choices=["end", "every_save"]
    )
    hub_license: str | None = option(None, "License field of the card, e.g. apache-2.0.")
    hub_base_id: str | None = option(None, "Id on the Hub of a base that is a local folder here.")
    hub_base_revision: str | None = option(None, "Commit of `hub_base_id`; the newest one if left out.")
    include_num_input_tokens_seen: str | bool = option("non_padding", "Count the tokens shown, for the record.")
    global_batch: int | None = option(
        None, "Rows per step over all processes that the rates were chosen for; another product is warned of."
    )
    validate_by_score: bool = option(True, "Score the validation labels at every evaluation (`eval_accuracy`).")

    def __post_init__(self) -> None:
        for key, why in IGNORED_BY_US.items():
            spec = self.__dataclass_fields__.get(key)
            if spec is not None and getattr(self, key) not in (spec.default, None, []):
                raise UserError(f"'{key}' is set to {getattr(self, key)!r} but is not taken here: {why}; leave it out")
        if self.fp16 or self.fp16_full_eval:
            raise UserError("fp16 gives NaN on this model family; use bf16: true on a GPU, or neither on a CPU")
        if not self.output_dir:
            raise UserError("'output_dir' is missing; name the folder that the run writes")
        if self.deepspeed is not None or self.fsdp:
            raise UserError(
                "'deepspeed' and 'fsdp' are no keys of a recipe here; use a launch file: accelerate launch "
                "--config_file accelerate_configs/zero2.yaml (or zero3.yaml, fsdp2.yaml)"
            )
        if not 0 < self.num_train_epochs < float("inf") and self.max_steps <= 0:
            raise UserError(f"num_train_epochs is {self.num_train_epochs} but must be a number above 0; correct it")
        if self.max_steps < 1 and self.max_steps != -1:
            raise UserError(f"max_steps is {self.max_steps} but must be at least 1, or -1 to train num_train_epochs")
        self._check_numbers()
        for name in [self.report_to] if isinstance(self.report_to, str) else self.report_to or []:
            if name in ("none", "all"):
                continue
            if name not in INTEGRATION_TO_CALLBACK:
                raise UserError(f"report_to '{name}' is no tracker{nearest(name, INTEGRATION_TO_CALLBACK)}; use none")
            if importlib.util.find_spec(PACKAGE_OF.get(name, name)) is None:
                raise UserError(
                    f"report_to '{name}' needs the package {name}, which is not installed; install it or use none"
                )
        if self.loss_type != "nll":
            raise UserError(f"loss_type '{self.loss_type}' is not supported; leave it out (nll)")
        self._check_sampling_and_selection()
        self._check_push()
        if self.remove_unused_columns:
            raise UserError("'remove_unused_columns' is true but the collator reads id, video and label; leave it out")
        engine = started_engine(use_cpu=self.use_cpu)  # before TRL reads what the launch file says
        if self.scores_labels:
            check_work(engine, SCORED)
        if self.bf16 is None:
            self.bf16 = not self.use_cpu and _has_bf16_gpu()
        super().__post_init__()

    @property
    def scores_labels(self) -> bool:
        """Whether validation labels are scored while it trains."""
        return self.validate_by_score and self.eval_strategy != "no"

    def _check_numbers(self) -> None:
        for key in ("learning_rate", "learning_rate_merger", "learning_rate_vision", "weight_decay"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < 1:
                raise UserError(f"'{key}' is {value} but must be a number from 0 to below 1")
        for key in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, key) < 1:
                raise UserError(f"'{key}' is {getattr(self, key)} but must be at least 1")
        bounds = [("max_length", 1), ("global_batch", 1), ("max_grad_norm", 0), ("dataloader_num_workers", 0)]
        bounds += [("dataloader_prefetch_factor", 1), ("logging_steps", 0)]
        for name in ("save", "eval"):  # 0 would be never, and a share of all steps is fine
            bounds += [(f"{name}_steps", 1e-9)] if getattr(self, f"{name}_strategy") == "steps" else []
        for key, least in bounds:
            value = getattr(self, key)
            if value is not None and not value >= least:
                raise UserError(
                    f"'{key}' is {value} but must be {f'at least {least}' if least in (0, 1) else 'above 0'}"
                )
        if not 0 <= self.seed < 2**32:
            raise UserError(f"'seed' is {self.seed} but must be from 0 to below 2^32")
        if self.dataloader_persistent_workers and self.dataloader_num_workers == 0:
            raise UserError("'dataloader_persistent_workers' is true but dataloader_num_workers is 0; raise it")

    def _check_sampling_and_selection(self) -> None:
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise UserError(
                f"train_sampling_strategy '{self.train_sampling_strategy}' needs lengths, which are known only in the "
                "collator; use random or sequential"
            )
        metrics = ["eval_accuracy", "eval_loss"] if self.validate_by_score else ["eval_loss"]
        if self.metric_for_best_model is None and self.load_best_model_at_end:
            self.metric_for_best_model = metrics[0]
        chosen = self.metric_for_best_model
        if chosen is not None and chosen.removeprefix("eval_") not in [name.removeprefix("eval_") for name in metrics]:
            raise UserError(
                f"metric_for_best_model '{chosen}' is not measured{nearest(chosen, metrics)}; use one of {metrics}"
            )
        upwards = chosen is not None and not chosen.endswith("loss")
        if self.greater_is_better is not None and chosen is not None and self.greater_is_better != upwards:
            raise UserError(
                f"greater_is_better is {self.greater_is_better} but {chosen} is better when it is "
                f"{'higher' if upwards else 'lower'}: the worst checkpoint would be kept; leave it out"
            )
        if self.activation_offloading and (self.use_cpu or not _has_gpu()):
            raise UserError("'activation_offloading' moves activations from a GPU, and there is none; leave it out")

    def _check_push(self) -> None:
        if self.push_to_hub and self.hub_model_id is None:
            raise UserError("push_to_hub is true but hub_model_id is missing; name where to push, e.g. user/name")
        for key in self.__dataclass_fields__:
            default = self.__dataclass_fields__[key].default
            if key.startswith("hub_") and not self.push_to_hub and getattr(self, key) != default:
                raise UserError(
                    f"'{key}' is {getattr(self, key)!r} but push_to_hub is false; leave it out, or set push_to_hub"
                )
        if self.hub_strategy == "every_save" and str(getattr(self.save_strategy, "value", self.save_strategy)) == "no":
            raise UserError(
                "hub_strategy is every_save but save_strategy is no; set save_strategy, or hub_strategy: end"
            )
        if self.push_to_hub and self.hub_private_repo is False and self.hub_license is None:
            raise UserError("hub_private_repo is false but hub_license is missing; name it, e.g. apache-2.0")
        if self.hub_base_revision is not None and self.hub_base_id is None:
            raise UserError(f"hub_base_revision is '{self.hub_base_revision}' but hub_base_id is missing; name it")
        for key in ("hub_model_id", "hub_base_id"):
            try:
                validate_repo_id(getattr(self, key) or "user/name")
            except HFValidationError as error:
                said = " ".join(str(error).split())
                raise UserError(
                    f"{key} '{getattr(self, key)}' is no id of the Hub: {said}; write user/name"
                ) from error


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_bf16_gpu() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
