"""Two controls of a comparison, made as rationale files: oracle texts, and rationales shuffled within the class.

Input: rows of rationales.jsonl, or true descriptions. Output: rows of the same form, for stage 1.
"""

import random
from typing import Any

from rbft_trl.data.task import CONCLUSION, FINAL_LINE, TaskCard
from rbft_trl.errors import UserError

Sample = dict[str, Any]


def shuffled_within_class(
    samples: list[Sample], card: TaskCard, *, seed: int, classes: dict[str, str] | None = None
) -> list[Sample]:
    """Gives every used sample the reasoning of another clip of its class, with its own gold final line.

    Across-class shuffling would be label noise and prove little, so clips of the pool exchange within their class
    where `classes` (id → true class) tells it, and keep their own text where nobody knows it. If training on these
    helps as much as on the clips' own rationales, then what a rationale says beyond its class did not matter.

    Raises:
        UserError: if all used samples of a class are of one clip, so that there is nothing to exchange.
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
        raise UserError(f"class '{label}' has rationales of one clip only, nothing to exchange; use more shots")
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


def oracle_samples(rows: list[dict[str, Any]], texts: dict[str, str], card: TaskCard) -> list[Sample]:
    """True descriptions as rationales for every training clip of a draw; the ceiling of what stage 1 can give.

    Args:
        rows (`list[dict]`): Training rows of the draw, those without a label included.
        texts (`dict[str, str]`): True description per id.
        card (`TaskCard`): For the final line of labelled clips.

    Raises:
        UserError: if a clip has no description.
    """
    samples = []
    for row in sorted(rows, key=lambda r: r["id"]):
        if not texts.get(row["id"]):
            raise UserError(f"oracle_texts has no text for clip '{row['id']}'; write one line per training clip")
        text = texts[row["id"]]
        if CONCLUSION.search(text):
            raise UserError(
                f"oracle_texts: the text of clip '{row['id']}' holds '{FINAL_LINE}'; write the description alone"
            )
        if row["label"] is not None:
            text = f"{text}\n{card.final_line(row['label'])}"
        verdict = "unlabelled" if row["label"] is None else "kept"
        samples.append(
            {"id": row["id"], "video": row["video"], "label": row["label"], "sample": 0, "shown": False, "text": text}
            | {"prompt_fingerprint": "oracle", "decoding": {}, "seed": 0, "verdict": verdict, "reason": None}
        )
    return samples
