"""Two controls of a comparison, made as rationale files: oracle texts, and rationales shuffled within the class.

Input: rows of rationales.jsonl, or true descriptions. Output: rows of the same form, for stage 1.
"""

import random
from typing import Any

from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError

Sample = dict[str, Any]


def shuffled_within_class(samples: list[Sample], card: TaskCard, *, seed: int) -> list[Sample]:
    """Gives every used sample the reasoning of another clip of its class, with its own gold final line.

    Across-class shuffling would be label noise and prove little. Clips of the pool have no known class; they exchange
    among themselves and have no final line. If training on these helps as much as on the true rationales, then what
    a rationale says of its clip did not matter.

    Raises:
        UserError: if all used samples of a class are of one clip, so that there is nothing to exchange.
    """
    used = [s for s in samples if s["verdict"] in ("kept", "unlabelled")]
    shuffled = []
    for label in [*card.names, None]:
        group = [s for s in used if s["label"] == label]
        if not group:
            continue
        givers = _other_clips(group, random.Random(f"{seed}:{label}"), label)
        for sample, giver in zip(group, givers, strict=True):
            text = card.without_final_line(giver["text"])
            if label is not None:
                text = f"{text}\n{card.final_line(label)}"
            shuffled.append(sample | {"text": text, "reason": f"shuffled: from {giver['id']}"})
    return sorted(shuffled, key=lambda s: (s["id"], s["sample"]))


def _other_clips(group: list[Sample], rng: random.Random, label: str | None) -> list[Sample]:
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
        if row["label"] is not None:
            text = f"{text}\n{card.final_line(row['label'])}"
        verdict = "unlabelled" if row["label"] is None else "kept"
        samples.append(
            {"id": row["id"], "video": row["video"], "label": row["label"], "sample": 0, "shown": False, "text": text}
            | {"prompt_fingerprint": "oracle", "decoding": {}, "seed": 0, "verdict": verdict, "reason": None}
        )
    return samples
