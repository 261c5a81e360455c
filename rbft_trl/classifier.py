"""A trained checkpoint as a classifier of new clips: the prompts, frames and precision that it was trained with.

Input: paths of clips. Output: per clip the labels with their scores, as transformers' video-classification pipeline.
"""

import importlib.util
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rbft_trl.batches import read_ahead
from rbft_trl.configs import ModelArguments
from rbft_trl.data.jsonl import read_json
from rbft_trl.data.task import CARD_FILE, TaskCard
from rbft_trl.data.video import Clip, ClipError, FrameSettings
from rbft_trl.errors import UserError
from rbft_trl.evidence.calibration import CALIBRATION_FILE
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.fetch import find_checkpoint
from rbft_trl.model.inference import LabelScorer, prefill, write
from rbft_trl.model.loading import base_fingerprint, load_for_inference, load_processor
from rbft_trl.model.provenance import read_record, under_adapter

Row = dict[str, Any]
Video = str | os.PathLike | dict[str, Any]


def check_classes(card: TaskCard, name: str | Path) -> None:
    """A classifier needs classes.

    Raises:
        UserError: for a checkpoint of open answers.
    """
    if card.is_open:
        raise UserError(
            f"'{name}' gives answers of type {card.answer.type}, no classes; evaluate it with rbft_trl/eval.py "
            "(predict.py, app.py, merge.py and push.py take classifiers only)"
        )


class VideoClassifier:
    """Labels clips by the likelihood of each class name.

    Example:
        >>> clf = VideoClassifier.from_pretrained("outputs/run/stage2")
        >>> clf("a.mp4", top_k=3)
        [{"label": "delivery", "score": 0.91}, {"label": "normal", "score": 0.08}, {"label": "no", "score": 0.01}]

    Args:
        model (`torch.nn.Module`): The model, in evaluation mode.
        collator (`ClipCollator`): Prompts and frames.
        temperature (`float`, *optional*, defaults to 1.0): Scores are softmax(log-likelihood / temperature).
        batch_size (`int`, *optional*, defaults to 8): Clips per batch.
    """

    def __init__(
        self, model: torch.nn.Module, collator: ClipCollator, *, temperature: float = 1.0, batch_size: int = 8
    ) -> None:
        self.model, self.collator, self.temperature, self.batch_size = model, collator, temperature, batch_size
        self.scorer = LabelScorer(collator)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        base: str | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 8,
    ) -> "VideoClassifier":
        """Loads a checkpoint that rbft_trl/sft.py wrote, with the temperature that was fitted for it, if any.

        Args:
            name (`str`): Its folder, or its id on the Hub: `user/name`, `user/name@revision`.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            base (`str`, *optional*): Where the base is now, if not where it was in training.
            device (`str`, *optional*): Left out: a GPU if there is one.
            batch_size (`int`, *optional*, defaults to 8): Clips per batch.

        Raises:
            UserError: if the folder is no finished checkpoint, or the base is another one.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls.from_checkpoint(
            Checkpoint.open(str(name), revision=revision, base=base), device=device, batch_size=batch_size
        )

    @classmethod
    def from_checkpoint(
        cls, checkpoint: "Checkpoint", *, device: str | torch.device, batch_size: int = 8
    ) -> "VideoClassifier":
        """Loads the model of a checkpoint that was opened already."""
        base, record = checkpoint.base, checkpoint.record
        card = TaskCard.from_yaml(checkpoint.folder / CARD_FILE, with_data=False)
        check_classes(card, checkpoint.folder)
        collator = ClipCollator(
            load_processor(*_processor_of(checkpoint)),
            card,
            Path(),
            FrameSettings.from_dict(record["frames"]),
            definitions=record["definitions"],
        )
        model = load_for_inference(under_adapter(record, base), str(checkpoint.folder), device=device)
        return cls(model, collator, temperature=checkpoint.calibration["temperature"], batch_size=batch_size)

    def __call__(
        self, videos: Video | Sequence[Video], *, top_k: int | None = None
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """The labels of one clip or of several, best first.

        Args:
            videos (`str`, `dict` or a list of these): Paths, or `{"video": path, "start": …, "end": …, "text": …}` for
                a part of a file or a clip with the text that came with it.
            top_k (`int`, *optional*): How many labels; all of them if left out.

        Returns:
            `list`: `[{"label": …, "score": …}, …]`, or for a list of clips a list of these.

        Raises:
            ClipError: for a clip that cannot be read, with its reason.
        """
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise UserError(f"top_k is {top_k} but must be at least 1")
        single = isinstance(videos, str | os.PathLike | dict)
        rows = [_row_of(video) for video in ([videos] if single else videos)]
        clips, answers = read_ahead(self.collator, rows, workers=1), []
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            read = [next(clips) for _ in batch]
            if bad := [clip for clip in read if isinstance(clip, ClipError)]:
                raise bad[0]
            for scores in self.scores(batch, read):
                ranked = sorted(scores.items(), key=lambda pair: -pair[1])
                answers.append([{"label": label, "score": score} for label, score in ranked[:top_k]])
        return answers[0] if single else answers

    def scores(self, rows: list[Row], clips: list[Clip]) -> list[dict[str, float]]:
        """Per clip: label → score, in the order of the card; they sum to 1."""
        with torch.inference_mode():
            logprobs = self.scorer.read(self.model, rows, clips)[1].double().cpu()
        scores = (logprobs / self.temperature).softmax(-1).tolist()
        return [dict(zip(self.scorer.names, row, strict=True)) for row in scores]

    def rationales(self, rows: list[Row], clips: list[Clip], *, max_new_tokens: int = 256) -> list[str]:
        """What the model writes about each clip, greedily, with its conclusion; it does not know the decision, and is
        not its cause."""
        prompts = [self.collator.rationale_prompt(row) for row in rows]
        read = prefill(self.model, self.collator.prompts(rows, prompts, clips=clips))
        return write(self.model, read, self.collator, max_new_tokens=max_new_tokens)[0]

    def read_batch(self, pairs: list[tuple[Row, Clip | ClipError]], *, rationale_tokens: int = 0) -> list[Row]:
        """Rows of predictions for clips that were read, and rows with a reason for those that could not be."""
        good = [(row, clip) for row, clip in pairs if not isinstance(clip, ClipError)]
        rows, clips = [row for row, _ in good], [clip for _, clip in good]
        found: dict[str, Row] = {row["id"]: {} for row in rows}
        if good:
            for row, scores in zip(rows, self.scores(rows, clips), strict=True):
                found[row["id"]] = {"scores": scores}
        if good and rationale_tokens:
            for row, text in zip(rows, self.rationales(rows, clips, max_new_tokens=rationale_tokens), strict=True):
                found[row["id"]] |= {"rationale": self.collator.card.reasoning(text) or None}
        return [
            {"id": row["id"], "state": row.get("state"), "error": str(clip) if isinstance(clip, ClipError) else None}
            | found.get(row["id"], {})
            for row, clip in pairs
        ]


def _row_of(video: Video) -> Row:
    if isinstance(video, dict):
        return {"id": str(video["video"]), **video, "video": str(video["video"]), "context": video.get("text")}
    if not isinstance(video, str | os.PathLike):
        raise UserError(f"{video!r} is no path of a clip; give a path, or a dict with 'video'")
    return {"id": str(video), "video": str(video)}


@dataclass(frozen=True)
class Checkpoint:
    """A trained stage on the disk, checked; nothing of it is loaded yet.

    Args:
        folder (`Path`): Where it is.
        record (`dict`): Its rbft.json, with the fingerprint of its `weights`.
        base (`ModelArguments`): How its base is loaded.
        calibration (`dict`): `temperature`, and what else was fitted on validation.
    """

    folder: Path
    record: dict[str, Any]
    base: ModelArguments
    calibration: dict[str, Any]

    @classmethod
    def open(cls, name: str, *, revision: str | None = None, base: str | None = None) -> "Checkpoint":
        """Finds a checkpoint and its base, and checks that they belong together.

        Raises:
            UserError: if the folder is no finished checkpoint, or the base is another one.
        """
        folder = find_checkpoint(name, revision)
        record = read_record(folder)
        return cls(folder, record, _base_of(folder, record, base), _calibration_of(folder, record))


def _processor_of(checkpoint: Checkpoint) -> tuple[str, str | None]:
    """Where the processor is: with the checkpoint, which has its own, or else with the base."""
    if (checkpoint.folder / "processor_config.json").is_file():
        return str(checkpoint.folder), None
    return checkpoint.base.model_name_or_path, checkpoint.base.model_revision


def _base_of(folder: Path, record: dict[str, Any], base: str | None) -> ModelArguments:
    """As in training, from where it was or from `base`; full weights are their own base."""
    recipe = record["recipe"]
    known = {key: recipe[key] for key in ("model_revision", "dtype", "attn_implementation", "load_in_4bit")}
    known["attn_implementation"] = _attention_here(known["attn_implementation"], folder)
    if not record["adapters"]["use_peft"]:
        return ModelArguments(model_name_or_path=str(folder), **known | {"model_revision": None})
    name = base or record["model_name_or_path"]
    arguments = ModelArguments(
        model_name_or_path=name, **known | ({"model_revision": None} if Path(name).is_dir() else {})
    )
    found = base_fingerprint(name, arguments.model_revision)
    if found not in (record["base"], record.get("base_hub")):
        raise UserError(
            f"'{folder}' was trained on the base {record['base']} ('{record['model_name_or_path']}') but "
            f"'{arguments.model_name_or_path}' is {found}; say where it is now with --base"
        )
    return arguments


def _attention_here(asked: str | dict[str, str] | None, folder: Path) -> str | dict[str, str] | None:
    """As in training; sdpa in place of flash attention where that is not installed or there is no GPU."""
    here = importlib.util.find_spec("flash_attn") is not None and torch.cuda.is_available()
    if here or "flash_attention_2" not in (asked.values() if isinstance(asked, dict) else [asked]):
        return asked
    warnings.warn(f"'{folder}' was trained with flash attention, which is not here; sdpa is used", stacklevel=2)
    return None if isinstance(asked, str) else dict.fromkeys(asked, "sdpa")


def _calibration_of(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """calibration.json; temperature 1 if there is none."""
    file = folder / CALIBRATION_FILE
    if not file.is_file():
        return {"temperature": 1.0}
    calibration = read_json(file)
    if not isinstance(calibration.get("temperature"), float) or calibration.get("weights") != record["weights"]:
        raise UserError(f"'{file}' was fitted to other weights; run eval.py with --calibrate true again, or delete it")
    return calibration
