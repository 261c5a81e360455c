"""Texts that stand in for the model's own rationales in stage 1: controls of a comparison, and rivals of rationales.

Input: rows of a draw, a file of rationales, true descriptions or a trained stage. Output: a file that stage 1 takes.
"""

import random
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rbft_trl.batches import fixed_batches, in_order
from rbft_trl.classifier import VideoClassifier
from rbft_trl.configs import ModelArguments
from rbft_trl.data.jsonl import BatchLog, make_folder, numbered_jsonl, read_jsonl, write_json, write_jsonl
from rbft_trl.errors import UserError, nearest
from rbft_trl.evidence.controls import (
    gold_lines,
    oracle_samples,
    permuted_words,
    play_count,
    playing_order,
    pseudo_labels,
    shuffled_within_class,
    told_labels,
)
from rbft_trl.model.loading import base_fingerprint
from rbft_trl.model.provenance import read_record
from rbft_trl.start import Row, Task
from rbft_trl.stopping import listening, noted

Sample = dict[str, Any]
KINDS = {
    "own": "as they are (times_labels: fewer clips of the pool; most_tokens: the beginning of each)",
    "shuffled": "each labelled clip has the text of another of its class (pool: true: others too, by oracle_texts)",
    "permuted": "the words of each text in another order",
    "gold_line": "the reasoning as it is, the final line says the true label",
    "definition": "what the task card says of each labelled clip's class: what a rationale can say without its clip",
    "oracle": "true descriptions",
    "playing_order": "a question that needs no label: is the clip played forwards, backwards or shuffled?",
    "play_count": "a question that needs no label: is the clip played once, twice or three times?",
    "pseudo_labels": "what a trained classifier says of the pool, as answers to the label prompt",
    "labels": "the classes that oracle_texts tells of the pool, as answers to the label prompt: what labels give",
}
SCORED_AT_ONCE = 32  # clips of the pool, for pseudo-labels
NEEDS_SOURCE = ("own", "shuffled", "permuted", "gold_line", "pseudo_labels")
OWN_SETTINGS = {"own": {"most_tokens"}, "shuffled": {"pool"}, "oracle": {"column"}, "pseudo_labels": {"min_score"}}


def check_texts(kind: str, settings: dict[str, Any], place: str) -> None:
    """Refuses a kind of text or a setting of it that is unknown.

    Raises:
        UserError: naming the place.
    """
    if kind not in KINDS:
        raise UserError(f"{place}: '{kind}' is no kind of text{nearest(kind, KINDS)}; use one of {', '.join(KINDS)}")
    known = {"times_labels"} | OWN_SETTINGS.get(kind, set()) | ({"source"} if kind in NEEDS_SOURCE else set())
    for key in settings:
        if key not in known:
            raise UserError(f"{place}: '{key}' is no setting of the texts '{kind}'{nearest(key, known)}; leave it out")
    if kind in NEEDS_SOURCE and "source" not in settings:
        raise UserError(f"{place}: the texts '{kind}' need a 'source', e.g. <rationales>")
    for key in ("source", "column"):
        if not isinstance(settings.get(key, ""), str):
            raise UserError(f"{place}: '{key}' is {settings[key]!r} but must be text")
    for key in ("times_labels", "most_tokens"):
        if key in settings and (type(settings[key]) is not int or settings[key] < 1):
            raise UserError(f"{place}: '{key}' is {settings[key]!r} but must be a whole number from 1")
    if type(settings.get("pool", False)) is not bool:
        raise UserError(f"{place}: 'pool' is {settings['pool']!r} but must be true or false")
    score = settings.get("min_score", 0.0)
    if not isinstance(score, int | float) or not 0 <= score < 1:
        raise UserError(f"{place}: 'min_score' is {score!r} but must be a number from 0 to below 1")


def read_truth(file: str) -> dict[str, Row]:
    """True descriptions by the id of their clip, as a person or a converter wrote them.

    Raises:
        UserError: naming the line.
    """
    found: dict[str, Row] = {}
    for number, row in numbered_jsonl(file, by_user=True):
        if not isinstance(row.get("id"), str):
            raise UserError(f"{file}:{number}: 'id' is {row.get('id')!r} but must be the id of a clip, as text")
        if row["id"] in found:
            raise UserError(f"{file}:{number}: clip '{row['id']}' stands twice; remove one of the lines")
        found[row["id"]] = row
    return found


def make_texts(
    kind: str,
    task: Task,
    output: Path,
    *,
    settings: dict[str, Any],
    truth: dict[str, Row],
    base: ModelArguments,
    seed: int,
) -> list[Sample]:
    """Writes the texts of one draw, and a summary beside them.

    Args:
        kind (`str`): One of `KINDS`.
        task (`Task`): The draw; its training rows get texts.
        output (`Path`): The file.
        settings (`dict`): `source` (a file, or for pseudo-labels a folder), `times_labels` (as many clips in all as
            labels times this), `most_tokens`, `column` (of the true descriptions), `min_score`, `pool`.
        truth (`dict`): True descriptions (and classes, where known) by id.
        base (`ModelArguments`): The base that will be trained on them.
        seed (`int`): Of whatever is drawn.
    """
    rows = subset([row for row in task.rows if row["split"] == "train"], settings.get("times_labels"), seed)
    kept = {row["id"] for row in rows}
    source = settings.get("source")
    own = [s for s in read_jsonl(source) if s["id"] in kept] if source and kind != "pseudo_labels" else []
    if kind == "own":
        samples = [shortened(sample, task, settings.get("most_tokens")) for sample in own]
    elif kind == "shuffled":
        classes = {name: row["label"] for name, row in truth.items() if row.get("label")}
        samples = shuffled_within_class(own, task.card, seed=seed, classes=classes if settings.get("pool") else None)
    elif kind == "permuted":
        samples = permuted_words(own, task.card, seed=seed)
    elif kind == "gold_line":
        samples = gold_lines(own, task.card)
    elif kind == "definition":
        labelled = [row for row in rows if row["label"] is not None]
        said = {row["id"]: task.card.labels[row["label"]] for row in labelled}
        samples = oracle_samples(labelled, said, task.card, source="the definition in the task card")
    elif kind == "playing_order":
        samples = playing_order(rows, seed=seed)
    elif kind == "play_count":
        samples = play_count(rows, seed=seed)
    elif kind == "pseudo_labels":
        scores = score_pool(task, rows, str(source), output)
        samples = pseudo_labels(rows, scores, task.card, task.definitions, min_score=settings.get("min_score", 0.0))
    elif kind == "labels":
        samples = pseudo_labels(rows, told_labels(rows, truth, task.card), task.card, task.definitions)
    else:
        column = settings.get("column", "text")
        samples = oracle_samples(rows, {name: row.get(column, "") for name, row in truth.items()}, task.card)
    make_folder(output.parent)
    summary = {
        "base": base_fingerprint(base.model_name_or_path, base.model_revision),
        "frames": task.frames.to_dict(),
        "definitions": task.definitions,
        "card": task.card.fingerprint(),
    }
    write_json(output.with_suffix(".summary.json"), summary | {"texts": kind, "settings": settings})
    write_jsonl(output, samples)
    return samples


def shortened(sample: Sample, task: Task, most: int | None) -> Sample:
    """A rationale whose reasoning has `most` tokens at most, its final line as it was."""
    if most is None:
        return sample
    collator, reasoning = task.collator(), task.card.without_final_line(sample["text"]).strip()
    text = collator.tokenizer.decode(collator.encode(reasoning)[:most]).strip()
    return sample | {"text": text if sample["label"] is None else f"{text}\n{task.card.final_line(sample['label'])}"}


def subset(rows: list[Row], times: int | None, seed: int) -> list[Row]:
    """All labelled rows, and so many of the pool that there are `times` as many rows as labels; always the same ones
    for a seed, and the smaller set is part of the larger.

    Raises:
        UserError: if the pool is too small.
    """
    if times is None:
        return rows
    pool = sorted((row for row in rows if row["label"] is None), key=lambda row: row["id"])
    labelled = len(rows) - len(pool)
    wanted = (times - 1) * labelled
    if wanted > len(pool):
        raise UserError(
            f"times_labels is {times}, which takes {wanted} clips without a label beside {labelled} with one, but "
            f"there are {len(pool)}; lower it, or add clips"
        )
    random.Random(f"pool:{seed}").shuffle(pool)
    chosen = {row["id"] for row in pool[:wanted]}
    return [row for row in rows if row["label"] is not None or row["id"] in chosen]


def score_pool(task: Task, rows: list[Row], folder: str, output: Path) -> dict[str, dict[str, float]]:
    """Scores per label of the clips without a label, by a trained stage. Each batch is written down beside `output`:
    a comparison that goes on, or gathers what its parts found, scores no clip again.

    Raises:
        UserError: if what is written down was scored by another stage, or on other clips.
        Stopped: after the batch in flight, if SIGTERM came.
    """
    pool = [row for row in rows if row["label"] is None]
    settings = {"source": folder, "weights": read_record(folder)["weights"], "clips": task.fingerprint(pool)}
    log, batches = BatchLog(output.with_suffix(".scores"), settings, rank=0), fixed_batches(pool, SCORED_AT_ONCE)
    if left := sorted(batches.keys() - log.load().keys()):
        classifier, collator = VideoClassifier.from_pretrained(folder), task.collator()
        with listening():
            for number in tqdm(left, desc="scoring the pool", unit="batch"):
                batch = batches[number]
                found = classifier.scores(batch, [collator.read_row(row) for row in batch])
                log.append(number, [{"id": r["id"], "scores": scores} for r, scores in zip(batch, found, strict=True)])
                if noted():
                    break
    return {row["id"]: row["scores"] for row in in_order(batches, log)}
