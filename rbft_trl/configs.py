"""The options of every entry, with one help text each; those of the trainer itself are in training_config.py.

How a recipe becomes these is rbft_trl/recipe.py. Only options that an entry honours are in its dataclass, so a setting
that would be ignored is an unknown key.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

from rbft_trl.data.video import FrameSettings
from rbft_trl.errors import UserError, nearest

PARTS = ("llm", "merger", "vision")


def option(default: Any, text: str, **metadata: Any) -> Any:
    """A dataclass field with its help text; `path=True` marks a path, `choices=[...]` the allowed values."""
    metadata |= {"help": text}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check_bounds(options: Any, **bounds: tuple[bool, str]) -> None:
    """Refuses a value that is out of bounds, naming no other one: its place is told by its name.

    Args:
        options (`object`): A group of options.
        bounds (`tuple[bool, str]`): By option, whether its value is fine, and what it must be.

    Raises:
        UserError: for the first that is not.
    """
    for key, (fine, wanted) in bounds.items():
        if not fine:
            raise UserError(f"'{key}' is {getattr(options, key)} but must be {wanted}")


@dataclass
class DataArguments:
    """What to look at: the task card, the draw of labelled clips, and the frames."""

    task: str = option("", "Task card (YAML): labels, prompts and where the clips are.", path=True)
    shots: int | None = option(None, "Labelled training clips per class; all of them if left out.")
    draw: int = option(0, "Seed of the draw of `shots` labelled clips; every draw shares one test set.")
    definitions: bool = option(True, "Whether the prompts list the definition of each label beside its name.")
    num_frames: int | None = option(None, "Frames per clip, uniform over its length (even; 8 if `fps` is not given).")
    fps: float | None = option(None, "Frames per second instead of `num_frames`.")
    max_frames: int | None = option(None, "Upper bound on the number of frames with `fps` (32 if left out).")
    min_pixels: int = option(128 * 28 * 28, "Lower bound on the pixels of one frame; smaller frames are enlarged.")
    max_pixels: int = option(360 * 420, "Upper bound on the pixels of one frame (RB-FT uses 360 x 420).")
    min_decodable: float = option(1.0, "Share of a damaged clip's frames that must decode for it to be used.")
    on_bad_clip: str = option(
        "stop",
        "What clips that cannot be read do: stop the run, or leave_out (listed, and wrong in evaluation).",
        choices=["stop", "leave_out"],
    )

    def __post_init__(self) -> None:
        if not self.task:
            raise UserError("'task' is missing; name a task card, e.g. task: recipes/tasks/copy_me.yaml")
        if self.shots is not None and self.shots < 1:
            raise UserError(f"'shots' is {self.shots} but must be at least 1; leave it out to use every labelled clip")
        if self.draw < 0:
            raise UserError(f"'draw' is {self.draw} but must be at least 0; it is the seed of a draw")
        if self.draw != 0 and self.shots is None:
            raise UserError(f"'draw' is {self.draw} but without 'shots' nothing is drawn; set shots, or leave it out")
        if self.max_frames is not None and self.fps is None:
            raise UserError(f"'max_frames' is {self.max_frames} but bounds only 'fps'; leave it out, or set fps")
        self.frames()

    def frames(self) -> FrameSettings:
        """The one sampler's settings; 8 frames if neither `num_frames` nor `fps` is given."""
        return FrameSettings(
            num_frames=8 if self.num_frames is None and self.fps is None else self.num_frames,
            fps=self.fps,
            max_frames=32 if self.max_frames is None else self.max_frames,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            min_decodable=self.min_decodable,
        )


@dataclass
class ModelArguments:
    """Which base model, in which precision."""

    model_name_or_path: str = option("", "Base model: a folder or an id on the Hub.", path=True)
    model_revision: str | None = option(None, "Branch, tag or commit of the base on the Hub.")
    dtype: str = option(
        "bfloat16",
        "Precision of the weights (float16 gives NaN on the Qwen2-VL family and is refused).",
        choices=["bfloat16", "float32", "float16", "auto"],
    )
    attn_implementation: str | dict[str, str] | None = option(
        None, "eager, sdpa, flash_attention_2, or one per part: {text_config: sdpa, vision_config: flash_attention_2}."
    )
    load_in_4bit: bool = option(False, "QLoRA: NF4 with double quantisation, bf16 compute; the tower stays as it is.")

    def __post_init__(self) -> None:
        if not self.model_name_or_path:
            raise UserError(
                "'model_name_or_path' is missing; name a folder or a Hub id, e.g. Qwen/Qwen2-VL-2B-Instruct"
            )
        if isinstance(self.attn_implementation, dict):
            known = ("text_config", "vision_config")
            for key in self.attn_implementation:
                if key not in known:
                    raise UserError(
                        f"attn_implementation holds '{key}', which is no part{nearest(key, known)}; use "
                        "text_config, vision_config"
                    )
        if self.dtype == "float16":
            raise UserError("dtype 'float16' gives NaN on this model family; use bfloat16 (or float32 on a CPU)")


@dataclass
class AdapterArguments:
    """What is trained: LoRA by part, or whole parts."""

    use_peft: bool = option(True, "LoRA (True) or full fine-tuning of `train_parts` (False).")
    lora_r: int = option(16, "Rank of the LoRA matrices.")
    lora_alpha: int = option(32, "LoRA scale is lora_alpha / lora_r.")
    lora_dropout: float = option(0.05, "Dropout on the input of the LoRA matrices.")
    train_parts: list[str] = option(["llm"], "Parts that are trained: any of llm, merger, vision.")

    def __post_init__(self) -> None:
        for part in self.train_parts:
            if part not in PARTS:
                raise UserError(f"train_parts holds '{part}', which is not a part; use any of {', '.join(PARTS)}")
        if not self.train_parts:
            raise UserError("'train_parts' is empty, so nothing would be trained; use e.g. [llm]")
        for name in ("lora_r", "lora_alpha", "lora_dropout"):
            if not self.use_peft and getattr(self, name) != self.__dataclass_fields__[name].default:
                raise UserError(
                    f"'{name}' is {getattr(self, name)} but use_peft is false, so there is no LoRA; leave it out"
                )
        check_bounds(
            self,
            lora_r=(self.lora_r >= 1, "at least 1"),
            lora_alpha=(self.lora_alpha >= 1, "at least 1"),
            lora_dropout=(0 <= self.lora_dropout < 1, "from 0 to below 1"),
        )


@dataclass
class StageArguments:
    """Which stage a training recipe is: where it starts and what the model learns to write."""

    init: str | None = option(None, "Where training starts: `base`, or the folder or Hub id of stage 1.")
    target: str | None = option(
        None,
        "What the answer is: label (stage 2, direct), rationale (stage 1), rationale_label, label_rationale; "
        "or joint: label and rationale of each row in every step, the rationale's tokens counted as one.",
        choices=["label", "rationale", "rationale_label", "label_rationale", "joint"],
    )
    rationales: str | None = option(None, "rationales.jsonl that stage 0 wrote; needed for every target but label.")
    class_balance: str = option(
        "none",
        "none; sampler: each class is shown equally often; weights: rare classes count more in the loss.",
        choices=["none", "sampler", "weights"],
    )
    label_in_prompt: bool = option(False, "Show the gold label in the student's prompt, as the authors' data do.")
    frames_may_differ: bool = option(False, "Start from a stage 1 that saw other frames, as in RB-FT's paper; warns.")

    def __post_init__(self) -> None:
        if self.target is None:
            raise UserError("'target' is missing; use label (stage 2, direct), rationale (stage 1), or a mixed target")
        if not self.init:
            raise UserError(
                "'init' is missing; name the folder of stage 1, or write init: base to start from the base"
            )
        if self.target != "label" and self.rationales is None:
            raise UserError(f"target '{self.target}' needs 'rationales', the file that rbft_trl/rationales.py writes")
        if self.target == "label" and self.rationales is not None:
            raise UserError("'rationales' is set but target 'label' reads none; leave it out or choose another target")
        if self.label_in_prompt and self.target != "rationale":
            raise UserError(f"'label_in_prompt' is only for target 'rationale', not '{self.target}'; leave it out")
        if self.frames_may_differ and self.init == "base":
            raise UserError("'frames_may_differ' is true but init is base, which has seen no frames; leave it out")


@dataclass
class EvalArguments:
    """What is evaluated, and how a decision is made."""

    output_dir: str = option("", "Folder for predictions.jsonl, metrics.json and confusion.png.", output=True)
    checkpoint: str | None = option(None, "Folder of a trained stage, or its Hub id; left out: the base.")
    unseen_labels: bool = option(
        False, "The checkpoint was trained on none of the card's labels, and is meant to name them (base-to-novel)."
    )
    split: str = option("test", "Which clips.", choices=["validation", "test"])
    method: str = option(
        "score",
        "score: likelihood of each label; reason: the same, behind the rationale that it writes first. Without "
        "training, from the labelled training clips: majority: their most frequent class; probe: a linear probe on "
        "frozen features; heads: votes of the attention heads that tell the classes apart best (SAVs); in_context: "
        "the likelihood behind the most similar ones as examples (VideoICL). greedy: the greedy answer, read "
        "strictly, for cards whose answers are numbers, times, ranges or lists.",
        choices=["score", "reason", "majority", "probe", "heads", "in_context", "greedy"],
    )
    num_heads: int | None = option(None, "Voting heads of method heads; 20 if left out (all of a smaller model).")
    num_examples: int | None = option(None, "Examples per clip of method in_context; 4 if left out.")
    frame_order: str = option(
        "original",
        "shuffled: each clip's frames in a random order, the same every time: does the classifier use time at all?",
        choices=["original", "shuffled"],
    )
    label_score: str = option(
        "sum", "Score of a label: sum of its tokens' log-probabilities, or their mean.", choices=["sum", "mean"]
    )
    calibrate: bool = option(
        False, "Fit a temperature to the scores and store it with the checkpoint (validation split only)."
    )
    generate: bool = option(True, "Also answer greedily and parse strictly; stored beside the prediction.")
    max_new_tokens: int = option(32, "Longest greedy answer, in tokens.")
    per_device_batch_size: int = option(8, "Clips per batch.")
    dataloader_num_workers: int = option(0, "Processes that read clips ahead.")
    use_cpu: bool = option(False, "Run on the CPU even if there is a GPU.")

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise UserError("'output_dir' is missing; name the folder for predictions.jsonl and metrics.json")
        check_bounds(
            self,
            per_device_batch_size=(self.per_device_batch_size >= 1, "at least 1"),
            max_new_tokens=(self.max_new_tokens >= 1, "at least 1"),
            dataloader_num_workers=(self.dataloader_num_workers >= 0, "at least 0"),
        )
        if self.checkpoint is not None and not self.checkpoint:
            raise UserError("'checkpoint' is empty; name the folder of a trained stage, or leave it out for the base")
        if not self.generate and self.max_new_tokens != self.__dataclass_fields__["max_new_tokens"].default:
            warnings.warn(f"max_new_tokens is {self.max_new_tokens}, ignored because generate is false", stacklevel=2)
        if self.unseen_labels and (self.checkpoint is None or self.method != "score" or self.calibrate):
            raise UserError(
                f"unseen_labels is about what a checkpoint was trained on: it needs a checkpoint ({self.checkpoint}), "
                f"method score ({self.method}) and no calibrate ({self.calibrate}); correct these, or leave it out"
            )
        if self.calibrate and (self.split != "validation" or self.checkpoint is None or self.method != "score"):
            raise UserError(
                f"calibrate needs a checkpoint, split validation and method score, not split '{self.split}' and "
                f"method '{self.method}'; the test split must not choose anything"
            )
        if self.calibrate and self.label_score != "sum":
            raise UserError("calibrate fits the sum of the log-probabilities, which prediction uses; drop label_score")
        self._check_method()

    def _check_method(self) -> None:
        """No option that the method would ignore."""
        unscored = self.method not in ("score", "reason", "in_context")
        for key, ignored, why in (
            ("label_score", self.label_score != "sum" and unscored, "which scores no tokens"),
            ("generate", not self.generate and self.method == "greedy", "which is the greedy answer"),
            ("checkpoint", self.checkpoint is not None and self.method == "majority", "which loads no model"),
            ("frame_order", self.frame_order != "original" and self.method == "majority", "which reads no clip"),
            ("generate", not self.generate and self.method == "reason", "which writes before it decides"),
            ("num_heads", self.num_heads is not None and self.method != "heads", "which has no voting heads"),
            ("num_examples", self.num_examples is not None and self.method != "in_context", "which has no examples"),
        ):
            if ignored:
                raise UserError(
                    f"'{key}' is '{getattr(self, key)}' but the method is {self.method}, {why}; leave it out, or take "
                    "another method"
                )
        for key in ("num_heads", "num_examples"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise UserError(f"'{key}' is {getattr(self, key)} but must be at least 1")
        if self.calibrate and self.frame_order != "original":
            raise UserError("calibrate is for clips as they are; leave out frame_order, which is a diagnostic")

    def examples(self) -> int:
        """Examples per clip."""
        return 4 if self.num_examples is None else self.num_examples
