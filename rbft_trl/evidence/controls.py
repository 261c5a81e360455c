"""Controls and rivals of rationales, made as files of rationales: pure functions on samples.

Input: rows of rationales.jsonl, true descriptions, scores. Output: rows of the same form, for stage 1.
"""

import random
from typing import Any

from rbft_trl.data.task import CONCLUSION, FINAL_LINE, TaskCard, fingerprint
from rbft_trl.errors import NothingKept, UserError

Sample = dict[str, Any]
ORDERS = {None: "forwards", "reversed": "backwards", "shuffled": "shuffled"}  # order of the frames → the answer
ORDER_PROMPT = "Is this clip played forwards, backwards or shuffled? Answer with one word."
COUNTS = {None: "once", "twice": "twice", "three_times": "three times"}
COUNT_PROMPT = "How often is this clip played: once, twice or three times?"


def shuffled_within_class(
    samples: list[Sample], card: TaskCard, *, seed: int, classes: dict[str, str] | None = None
) -> list[Sample]:
    """Gives every used sample the reasoning of another clip of its class, with its own gold final line.

    Across-class shuffling would be label noise and prove little, so clips of the pool keep their own text. With
    `classes` (id → true class) they exchange within it: that hands their class to stage 1, since the texts of a class
    have much in common, and is no control of rationales any more. If training on these helps as much as on the clips'
    own rationales, then what a rationale of a labelled clip says beyond its class did not matter.

    Raises:
        NothingKept: if all used samples of a class are of one clip, so that there is nothing to exchange.
    """
    used = [s for s in samples if s["verdict"] in ("kept", "unlabelled")]
    shuffled = [s for s in used if s["label"] is None and not (classes or {}).get(s["id"])]
    for pool in (False, True):  # the two never mix: their texts were checked in different ways
        for label in card.names:
            of_class = [s for s in used if (s["label"] or (classes or {}).get(s["id"])) == label]
            group = [s for s in of_class if (s["label"] is None) == pool]
            if not group or (pool and len({s["id"] for s in group}) < 2):
                shuffled += group
                continue
            shuffled += _exchanged(group, card, random.Random(f"{seed}:{label}:{pool}"), label)
    return sorted(shuffled, key=lambda s: (s["id"], s["sample"]))


def _exchanged(group: list[Sample], card: TaskCard, rng: random.Random, label: str) -> list[Sample]:
    shuffled = []
    for sample, giver in zip(group, _other_clips(group, rng, label), strict=True):
        text = card.without_final_line(giver["text"])
        if sample["label"] is not None:
            text = f"{text}\n{card.final_line(label)}"
        shuffled.append(sample | {"text": text, "reason": f"shuffled: from {giver['id']}"})
    return shuffled


def _other_clips(group: list[Sample], rng: random.Random, label: str) -> list[Sample]:
    """A random order of `group` in which nobody receives a text of their own clip."""
    clips = sorted({s["id"] for s in group})
    if len(clips) < 2:
        raise NothingKept(f"class '{label}' has rationales of one clip only, nothing to exchange; use more shots")
    rng.shuffle(clips)
    next_clip = {clip: clips[(i + 1) % len(clips)] for i, clip in enumerate(clips)}
    texts: dict[str, list[Sample]] = {}
    for sample in group:
        texts.setdefault(sample["id"], []).append(sample)
    taken = dict.fromkeys(clips, 0)
    givers = []
    for sample in group:
        giver = next_clip[sample["id"]]
        givers.append(texts[giver][taken[giver] % len(texts[giver])])
        taken[giver] += 1
    return givers


def oracle_samples(
    rows: list[dict[str, Any]], texts: dict[str, str], card: TaskCard, *, source: str = "oracle_texts"
) -> list[Sample]:
    """True descriptions as rationales for every training clip of a draw; the ceiling of what stage 1 can give.

    Args:
        rows (`list[dict]`): Training rows of the draw, those without a label included.
        texts (`dict[str, str]`): True description per id.
        card (`TaskCard`): For the final line of labelled clips.
        source (`str`, *optional*): Where the texts are from, for messages.

    Raises:
        UserError: if a clip has no description, or one that holds a final line.
    """
    samples = []
    for row in sorted(rows, key=lambda r: r["id"]):
        if not texts.get(row["id"]):
            raise UserError(f"{source} has no text for clip '{row['id']}'; write one line per training clip")
        text = texts[row["id"]]
        if not isinstance(text, str):
            raise UserError(f"oracle_texts: the text of clip '{row['id']}' is {text!r}; write it in quotes")
        if not text.strip():
            raise UserError(f"{source}: the text of clip '{row['id']}' is empty; write what is to be seen in it")
        if CONCLUSION.search(text):
            raise UserError(
                f"{source}: the text of clip '{row['id']}' holds '{FINAL_LINE}'; write the description alone"
            )
        if row["label"] is not None:
            text = f"{text}\n{card.final_line(row['label'])}"
        verdict = "unlabelled" if row["label"] is None else "kept"
        samples.append(
            {"id": row["id"], "video": row["video"], "label": row["label"], "sample": 0, "shown": False, "text": text}
            | {"prompt_fingerprint": "oracle", "decoding": {}, "seed": 0, "verdict": verdict, "reason": None}
        )
    return samples


def permuted_words(samples: list[Sample], card: TaskCard, *, seed: int) -> list[Sample]:
    """Every used sample with the words of its reasoning in a random order, its final line as it was: the same words,
    and no sentence (a control of arXiv 2406.14511)."""
    permuted = []
    for sample in (s for s in samples if s["verdict"] in ("kept", "unlabelled")):
        words = card.without_final_line(sample["text"]).split()
        random.Random(f"{seed}:{sample['id']}:{sample['sample']}").shuffle(words)
        text = " ".join(words)
        if sample["label"] is not None:
            text = f"{text}\n{card.final_line(sample['label'])}"
        permuted.append(sample | {"text": text, "reason": "words permuted"})
    return permuted


def gold_lines(samples: list[Sample], card: TaskCard) -> list[Sample]:
    """Every sample's reasoning with its own gold final line, whatever it concluded and whatever the checks said; one
    per clip (a control: rationales that were written for another label)."""
    lines: dict[str, Sample] = {}
    for sample in samples:
        text = card.without_final_line(sample["text"]).strip()
        if not text or sample["id"] in lines:
            continue
        if sample["label"] is not None:
            text = f"{text}\n{card.final_line(sample['label'])}"
        verdict = "unlabelled" if sample["label"] is None else "kept"
        lines[sample["id"]] = sample | {"text": text, "verdict": verdict, "reason": "final line replaced"}
    return list(lines.values())


def playing_order(rows: list[dict[str, Any]], *, seed: int) -> list[Sample]:
    """One question per clip that needs no label and no writer: in which order are its frames shown? A free temporal
    task, as in SF2T (arXiv 2504.07745)."""
    return _asked(rows, ORDER_PROMPT, ORDERS, seed)


def play_count(rows: list[dict[str, Any]], *, seed: int) -> list[Sample]:
    """The same with another question: how often is the clip played?"""
    return _asked(rows, COUNT_PROMPT, COUNTS, seed)


def _asked(rows: list[dict[str, Any]], prompt: str, answers: dict[str | None, str], seed: int) -> list[Sample]:
    """`prompt` on every clip, whose frames are shown in an order that is drawn among those of `answers`."""
    samples = []
    for row in sorted(rows, key=lambda r: r["id"]):
        order = random.Random(f"{seed}:{row['id']}").choice(list(answers))
        sample = {"id": row["id"], "video": row["video"], "label": row["label"], "sample": 0}
        samples.append(_free(sample, prompt, answers[order]) | ({"order": order} if order else {}))
    return samples


def pseudo_labels(
    rows: list[dict[str, Any]],
    scores: dict[str, dict[str, float]],
    card: TaskCard,
    definitions: bool,
    *,
    min_score: float = 0.0,
) -> list[Sample]:
    """Labels of the labelled clips, and the best label of each clip of the pool whose score is `min_score` or more, as
    answers to the label prompt: self-training, the rival of rationales on the same clips."""
    samples = []
    for row in sorted(rows, key=lambda r: r["id"]):
        found = scores.get(row["id"])
        said = row["label"] if found is None else max(found, key=found.get)
        if said is None or (found is not None and found[said] < min_score):
            continue
        prompt = card.label_prompt(definitions=definitions, text=row.get("context"))
        sample = {"id": row["id"], "video": row["video"], "label": row["label"], "sample": 0}
        samples.append(_free(sample, prompt, said))
    return samples


def told_labels(
    rows: list[dict[str, Any]], truth: dict[str, dict[str, Any]], card: TaskCard
) -> dict[str, dict[str, float]]:
    """The class of each clip of the pool as somebody knows it, in the form of scores.

    Raises:
        UserError: if a clip of the pool has no class there, or one that is not in the card.
    """
    told = {}
    for row in (row for row in rows if row["label"] is None):
        label = truth.get(row["id"], {}).get("label")
        if label not in card.names:
            raise UserError(
                f"oracle_texts: the label of clip '{row['id']}' is {label!r}, which is no class of {card.path}; write "
                "it there, or leave out the arms with these labels"
            )
        told[row["id"]] = {label: 1.0}
    return told


def _free(sample: Sample, prompt: str, text: str) -> Sample:
    """A sample under a prompt of its own, which has no final line."""
    verdict = "unlabelled" if sample["label"] is None else "kept"
    made = {"shown": False, "prompt_fingerprint": fingerprint(prompt), "decoding": {}, "seed": 0}
    return made | sample | {"prompt": prompt, "text": text, "verdict": verdict, "reason": None}
