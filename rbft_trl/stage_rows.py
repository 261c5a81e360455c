"""From rows of the data and rationales.jsonl to the flat rows that one stage is trained on.

Input: rows of this draw, the stage's options. Output: rows {id, video, label, target, text}, with the keys `prompt`
and `order` where a rationale has one; all checks of both.
"""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from rbft_trl.configs import StageArguments
from rbft_trl.data.jsonl import first_difference, numbered_jsonl, read_json
from rbft_trl.data.manifest import Entry
from rbft_trl.data.task import TaskCard
from rbft_trl.data.video import ORDERS
from rbft_trl.errors import UserError
from rbft_trl.evidence.verify import VERDICTS, require_every_class
from rbft_trl.model.collator import ClipCollator
from rbft_trl.start import Row, Task

OWN = ("prompt", "order")  # what a sample may bring instead of the card's rationale prompt and the clip as it is


def training_rows(task: Task, stage: StageArguments) -> list[Row]:
    """The rows of one stage, in the order of the data; a clip with several kept rationales has several rows.

    Raises:
        UserError: if the rationales are missing, belong to other clips or labels, or leave a class empty.
    """
    if not task.of_split("train"):
        raise UserError(f"{task.card.path}: there is no training clip; such a card is for evaluation, name another")
    if stage.target == "label":
        return [_flat(row, "label", "") for row in task.readable("train")]
    lines, card = numbered_jsonl(stage.rationales, by_user=True), task.card
    samples = [sample for _, sample in lines]
    by_id = {row["id"]: row for row in task.rows if row["split"] == "train"}
    seen = set()
    if not (summary := Path(stage.rationales).with_suffix(".summary.json")).is_file():
        warnings.warn(f"'{summary}' is missing: which base and frames wrote the rationales is not known", stacklevel=2)
    for number, sample in lines:
        _check_sample(sample, by_id, card, f"{stage.rationales}:{number}")
        if (key := (sample["id"], sample.get("sample"))) in seen:
            raise UserError(f"{stage.rationales}:{number}: clip '{key[0]}', sample {key[1]} stands twice; remove one")
        seen.add(key)
    answers = [s for s in samples if s.get("prompt") is None]  # the others are tasks of their own
    if answers or not samples:
        require_every_class(answers, card)
    _warn_of_other_prompt(answers, card, stage.rationales)
    _warn_of_wrong_lines(answers, card, stage.rationales)
    used = [s for s in samples if s["verdict"] in ("kept", "unlabelled")]
    if stage.target == "label_rationale":
        # a clip of the pool has no label to begin with
        used = [s for s in used if s["label"] is not None or s.get("prompt") is not None]
    own = [key for key in OWN if any(s.get(key) is not None for s in used)]  # all rows of a data set have equal keys
    if stage.target == "joint":  # no label is lost: a clip whose rationales were all dropped gives its label alone
        with_text = {s["id"] for s in used}
        used += [{"id": row["id"], "text": ""} for row in task.readable("train") if row["id"] not in with_text]
    return [_flat(by_id[s["id"]], stage.target, s["text"]) | {key: s.get(key) for key in own} for s in used]


def balance_weights(rows: list[Row]) -> list[float]:
    """Per row n / (classes · rows of its class), so that every class weighs the same; 1 for rows of the pool."""
    counts = Counter(row["label"] for row in rows if row["label"] is not None)
    each = counts.total() / max(len(counts), 1)
    return [1.0 if row["label"] is None else each / counts[row["label"]] for row in rows]


def check_stage0(stage: StageArguments, card: TaskCard, same: dict[str, Any]) -> None:
    """Rationales must have been written by this base, on these frames and with these prompts, where that is known.

    Raises:
        UserError: naming the key, both values and the way out.
    """
    summary = Path(stage.rationales).with_suffix(".summary.json") if stage.rationales else None
    if summary is None or not summary.is_file():
        return
    made = read_json(summary)
    wanted = {key: same[key] for key in ("base", "frames", "definitions")} | {"card": card.fingerprint()}
    if key := first_difference(made, wanted, among=wanted):
        raise UserError(
            f"'{stage.rationales}' was written with {key} = {made.get(key)}, this recipe has {wanted[key]}; "
            "make them equal or write the rationales again"
        )


def check_lengths(rows: list[Row], collator: ClipCollator, manifest: dict[str, Entry], limit: int | None) -> None:
    """Refuses rows that are longer than `max_length`, before step 1: TRL's cut would remove video tokens."""
    if limit is None:
        return
    lengths = collator.count_tokens(rows, [manifest[row["id"]] for row in rows])
    too_long = [row["id"] for row, tokens in zip(rows, lengths, strict=True) if tokens > limit]
    if too_long:
        raise UserError(
            f"{len(too_long)} rows have more than max_length = {limit} tokens, the longest {max(lengths)}, "
            f"e.g. {', '.join(too_long[:3])}; raise max_length, or lower num_frames or max_pixels"
        )


def _flat(row: Row, target: str, text: str) -> Row:
    clip = {key: row.get(key) for key in ("id", "video", "start", "end", "label", "context")}
    return clip | {"target": target, "text": text}


def _check_sample(sample: dict[str, Any], by_id: dict[str, Row], card: TaskCard, place: str) -> None:
    for key in ("id", "label", "text", "verdict"):
        if key not in sample:
            raise UserError(f"{place}: '{key}' is missing; write the file with rbft_trl/rationales.py")
    if not isinstance(sample["id"], str) or not isinstance(sample["text"], str):
        raise UserError(f"{place}: 'id' and 'text' must be text; write the file with rbft_trl/rationales.py")
    if sample["verdict"] not in VERDICTS:
        raise UserError(f"{place}: verdict '{sample['verdict']}' is none of {', '.join(VERDICTS)}; correct it")
    _check_own(sample, place)
    trained = sample["text"] if sample.get("prompt") is not None else card.without_final_line(sample["text"])
    if sample["verdict"] != "dropped" and not trained.strip():
        raise UserError(f"{place}: the text of clip '{sample['id']}' is empty but kept; drop it")
    if type(sample.get("sample", 0)) is not int:
        raise UserError(f"{place}: 'sample' is {sample['sample']!r} but must be a number; correct it")
    if sample["verdict"] != "dropped" and (sample["verdict"] == "unlabelled") != (sample["label"] is None):
        raise UserError(
            f"{place}: verdict '{sample['verdict']}' does not fit label {sample['label']!r}; clips without a label "
            "are unlabelled, others kept or dropped"
        )
    row = by_id.get(sample["id"])
    if row is None:
        raise UserError(
            f"{place}: clip '{sample['id']}' is not a training clip of this draw; write the rationales with the same "
            "task, shots and draw as this recipe"
        )
    if sample["label"] != row["label"]:
        raise UserError(
            f"{place}: clip '{sample['id']}' has label {sample['label']!r}, the data says {row['label']!r}; "
            "write the rationales again"
        )


def _check_own(sample: dict[str, Any], place: str) -> None:
    prompt, order = sample.get("prompt"), sample.get("order")
    if prompt is not None and (not isinstance(prompt, str) or not prompt.strip()):
        raise UserError(f"{place}: 'prompt' is {prompt!r} but must be text; write what is asked, or leave it out")
    if order is not None and order not in ORDERS:
        raise UserError(f"{place}: 'order' is {order!r} but must be one of {', '.join(ORDERS)}; or leave it out")


def _warn_of_wrong_lines(samples: list[dict[str, Any]], card: TaskCard, place: str) -> None:
    """With `checks: none`, as in the paper, or in a file that was edited."""
    kept = [s for s in samples if s["verdict"] == "kept"]
    wrong = sum(card.objection(s["text"], s["label"]) is not None for s in kept)
    if wrong:
        warnings.warn(
            f"{place}: the final line of {wrong} of {len(kept)} kept rationales does not name the clip's label",
            stacklevel=2,
        )


def _warn_of_other_prompt(samples: list[dict[str, Any]], card: TaskCard, place: str) -> None:
    """Rationales that answer another prompt than the student's are a trap of the original data, not an error."""
    known = card.blind_fingerprints()
    other = sum(
        not s.get("shown") and s.get("prompt_fingerprint") not in {*known, "oracle", "checklist"} for s in samples
    )
    if other:
        warnings.warn(
            f"{place}: {other} rationales answer another prompt than the student is trained on", stacklevel=2
        )
