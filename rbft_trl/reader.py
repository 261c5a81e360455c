"""From clips to predictions, by the method that the recipe names: what rbft_trl/eval.py writes down.

Input: rows with their clips, a model. Output: one prediction per row, readable or not.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator

from rbft_trl.batches import Pairs, fixed_batches, run_batches
from rbft_trl.configs import EvalArguments
from rbft_trl.data.jsonl import BatchLog
from rbft_trl.data.task import TaskCard
from rbft_trl.data.video import Clip, ClipError
from rbft_trl.model.answerer import Answerer
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.heads import fit_heads
from rbft_trl.model.in_context import InContext
from rbft_trl.model.inference import LabelScorer, Prefill, prefill, write
from rbft_trl.model.probe import fit_probe
from rbft_trl.start import Row

Prediction = dict[str, Any]
Written = tuple[list[str], list[bool]]  # answers, and whether each was cut at `max_new_tokens`
# From rows and clips to scores `[B, C]`, and what an answer can be written from, or was written already.
Decide = Callable[[list[Row], list[Clip]], tuple[Prefill | Written | None, torch.Tensor]]
REASONS_FIRST = ("rationale", "rationale_label")
NOTHING = {"prediction": None, "scores": {}, "logprobs": {}}
NOTHING |= {"generated": None, "generated_cut": False, "generated_label": None}


class Reader:
    """Reads every clip once: label scores, and a greedy answer from the same prefill.

    Args:
        accelerator (`Accelerator`): The processes.
        model (`torch.nn.Module`): The base, or a trained stage.
        collator (`ClipCollator`): Prompts and frames.
        args (`EvalArguments`): The method and its options.
        target (`str`): What the checkpoint was trained to write.
        train (`list[dict]`): Labelled training clips, for the methods that look at them.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        collator: ClipCollator,
        args: EvalArguments,
        target: str,
        train: list[Row],
    ) -> None:
        self.accelerator, self.model, self.collator = accelerator, model, collator
        self.args, self.target = args, target
        self.decide = self._method(train)
        self.last = time.perf_counter()

    def _method(self, train: list[Row]) -> Decide | None:
        how, size = self.args, self.args.per_device_batch_size
        if self.collator.card.is_open:
            self.ask = Answerer(self.collator, max_new_tokens=how.max_new_tokens)
            return None
        scorer = LabelScorer(self.collator, how=how.label_score)
        if how.method == "probe":
            probe = fit_probe(self.accelerator, self.model, self.collator, train, size)
            return lambda rows, clips: (None, probe(self._read(rows, clips).features))
        if how.method == "heads":
            vote = fit_heads(self.accelerator, self.model, self.collator, train, size, keep=how.num_heads)
            return lambda rows, clips: (None, vote(rows, clips))
        if how.method == "in_context":
            return InContext(self.accelerator, self.model, scorer, train, size, examples=how.examples())
        if how.method == "reason":
            return lambda rows, clips: self._reasoned(scorer, rows, clips)
        return lambda rows, clips: scorer.read(self.model, rows, clips)

    def _reasoned(self, scorer: LabelScorer, rows: list[Row], clips: list[Clip]) -> tuple[Written, torch.Tensor]:
        texts, cut, scores = scorer.reasoned(self.model, rows, clips, max_new_tokens=self.args.max_new_tokens)
        return (texts, cut), scores

    def _read(self, rows: list[Row], clips: list[Clip]) -> Prefill:
        prompts = [self.collator.label_prompt(row) for row in rows]
        return prefill(self.model, self.collator.prompts(rows, prompts, clips=clips))

    def run(self, rows: list[Row], log: BatchLog) -> list[Prediction]:
        """Predictions of all rows, every id exactly once, whatever the number of processes."""
        self.last = time.perf_counter()
        return run_batches(
            lambda _, pairs: self.predict(pairs),
            fixed_batches(rows, self.args.per_device_batch_size),
            log,
            self.accelerator,
            self.collator,
            title=f"{self.args.method} on {self.args.split}",
            workers=self.args.dataloader_num_workers,
        )

    def predict(self, pairs: Pairs) -> list[Prediction]:
        """Predictions of one batch; a clip that cannot be read stays in it, as wrong, with its reason.

        `seconds` is the time per clip since the batch before, so with reading and decoding the clips.
        """
        good = [(row, clip) for row, clip in pairs if not isinstance(clip, ClipError)]
        answers = self._answer([row for row, _ in good], [clip for _, clip in good]) if good else {}
        now = time.perf_counter()
        seconds, self.last = (now - self.last) / len(pairs), now  # with the wait for the clips of this batch
        errors = {row["id"]: str(clip) if isinstance(clip, ClipError) else None for row, clip in pairs}
        return [
            _known(row) | answers.get(row["id"], NOTHING) | {"error": errors[row["id"]], "seconds": seconds}
            for row, _ in pairs
        ]

    def _open_answer(self, rows: list[Row], clips: list[Clip]) -> dict[str, Prediction]:
        """The greedy answer is the prediction; there are no labels to score."""
        texts, cut = self.ask.read(self.model, rows, clips, reasons_first=self.target in REASONS_FIRST)
        card, answers = self.collator.card, {}
        for row, text, is_cut in zip(rows, texts, cut, strict=True):
            part = self._answer_part(text)
            said = card.parse_label(part)
            told = {"prediction": said, "generated": text, "generated_cut": is_cut, "generated_label": said}
            answers[row["id"]] = NOTHING | told | {"reason": card.objection(part, row["label"], require_prefix=False)}
        return answers

    def _answer(self, rows: list[Row], clips: list[Clip]) -> dict[str, Prediction]:
        if self.decide is None:
            return self._open_answer(rows, clips)
        read, scores = self.decide(rows, clips)
        texts, cut = [None] * len(rows), [False] * len(rows)
        if isinstance(read, tuple):
            texts, cut = read
        elif self.args.generate and read is not None:
            texts, cut = self._generate(read, rows, clips)
        card, answers = self.collator.card, {}
        for row, logprobs, text, is_cut in zip(rows, scores.double().cpu(), texts, cut, strict=True):
            answers[row["id"]] = _scored(card.names, logprobs) | {
                "generated": text,
                "generated_cut": is_cut,
                "generated_label": card.parse_label(self._answer_part(text)) if text is not None else None,
            }
        return answers

    def _generate(self, read: Prefill, rows: list[Row], clips: list[Clip]) -> Written:
        """Greedy answers, from the prefill of the label prompt unless the model was taught to reason first."""
        if self.target in REASONS_FIRST and self.args.method == "score":
            prompts = [self.collator.rationale_prompt(row) for row in rows]
            read = prefill(self.model, self.collator.prompts(rows, prompts, clips=clips))
        return write(self.model, read, self.collator, max_new_tokens=self.args.max_new_tokens)

    def _answer_part(self, text: str) -> str:
        """Where the label stands: the first line if the model was taught label → rationale, else the last."""
        return text.split("\n", maxsplit=1)[0] if self.target == "label_rationale" else text


def always(rows: list[Row], train: list[Row], card: TaskCard, unreadable: dict[str, str]) -> list[Prediction]:
    """The most frequent class of the training clips for every row (of equals the first of the card); no clip is read.

    Scores are the classes' shares of the training clips, with one more clip per class (Laplace). A clip that is known
    to be unreadable is wrong, as with every other method.
    """
    counts = Counter(row["label"] for row in train)
    shares = torch.tensor([counts[name] + 1.0 for name in card.names], dtype=torch.float64)
    said = NOTHING | _scored(card.names, (shares / shares.sum()).log())
    ordered = sorted(rows, key=lambda row: row["id"])
    return [
        _known(row)
        | (NOTHING if row["id"] in unreadable else said)
        | {"error": unreadable.get(row["id"]), "seconds": 0.0}
        for row in ordered
    ]


def _known(row: Row) -> Prediction:
    return {key: row[key] for key in ("id", "video", "group", "label")}


def _scored(names: list[str], logprobs: torch.Tensor) -> Prediction:
    return {
        "prediction": names[int(logprobs.argmax())],
        "scores": dict(zip(names, logprobs.softmax(-1).tolist(), strict=True)),
        "logprobs": dict(zip(names, logprobs.tolist(), strict=True)),
    }
