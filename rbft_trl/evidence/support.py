"""Checks that need more than one text: does the label follow from the reasoning, do the samples of a clip agree?

Input: rows of rationales.jsonl. Output: figures per row (`rebuilt_words`, `agreement`) and reason codes; all pure.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from rbft_trl.data.task import TaskCard
from rbft_trl.errors import NothingKept, UserError
from rbft_trl.evidence.wording import SENTENCE_END, set_of, spelled_out, without_classes, words

Sample = dict[str, Any]
FOLDS = 10
# Words that every text shares and that tell nothing of a clip.
EMPTY = set_of(
    "a an the this that these those it its he she they his her their i we you is are was were be been being am do "
    "does did has have had of in on at to from by with for and or but as so then there here what which who where when "
    "while can could may might will would should not no clip video frame frames scene shows show seen see appears"
)
DENYING = set_of("no not cannot never without neither nor")  # English, as EMPTY is


@dataclass(frozen=True)
class Limits:
    """The thresholds of stage 0's recipe (rbft_trl/rationale_config.py has their meaning for a user).

    Args:
        rebuild (`str`): none; words: by a student fitted on the other clips' rationales; model: by the base, whose
            figures are in the rows already.
        rebuild_margin (`float`): By how much the label must be ahead of every other, in nats.
        min_agreement (`float`): Least agreement with the clip's other samples, 0 to 1.
    """

    rebuild: str = "none"
    rebuild_margin: float = 0.0
    min_agreement: float = 0.0


def agreements(samples: Sequence[Sample], card: TaskCard) -> list[float | None]:
    """How far each sample agrees with the other samples of its clip, 0 to 1; None where there is no other one.

    A blind sample of a labelled clip: the share of the others whose final line names the same class. Without a label,
    or where the label was shown (then all name it): the mean, over the sample's content words, of the share of others
    that hold the word too. A word weighs log((clips + 1) / clips that hold it), so that what every rationale says
    counts next to nothing; one that is denied ("no man") is another word; the order of words does not count.
    """
    groups: dict[tuple[str, bool], list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault((sample["id"], bool(sample.get("shown"))), []).append(i)
    if all(len(places) == 1 for places in groups.values()):
        return [None] * len(samples)
    content = [_content(sample["text"], card) for sample in samples]
    held = Counter(
        word for _, word in {(s["id"], word) for s, one in zip(samples, content, strict=True) for word in one}
    )
    clips = len({sample["id"] for sample in samples})
    found: list[float | None] = [None] * len(samples)
    for (_, shown), places in groups.items():
        by_name = not shown and samples[places[0]]["label"] is not None
        said = [_concluded(samples[i]["text"], card) if by_name else content[i] for i in places]
        uses = Counter(word for one in said for word in one)
        for i, one in zip(places, said, strict=True):
            weights = {word: 1.0 if by_name else math.log((clips + 1) / held[word]) for word in sorted(one)}
            if len(places) > 1:
                shared = sum(weight * (uses[word] - 1) for word, weight in weights.items()) / (len(places) - 1)
                found[i] = shared / sum(weights.values()) if weights else 0.0
    return found


def _concluded(text: str, card: TaskCard) -> set[str]:
    name = card.parse_label(text, require_prefix=True)
    return {name} if name else set()


def _content(text: str, card: TaskCard) -> set[str]:
    found = set[str]()
    for sentence in SENTENCE_END.split(spelled_out(card.without_final_line(text))):
        denied = False
        for word in words(sentence):
            if word not in EMPTY | DENYING:
                found.add(f"not {word}" if denied else word)
            denied = word in DENYING or (denied and word in EMPTY)
    return found


def _content_words(text: str) -> list[str]:
    return [word for word in words(text) if word not in EMPTY]


def rebuilt_by_words(samples: Sequence[Sample], card: TaskCard) -> list[dict[str, Any]]:
    """Rebuilds each label from the words of its rationale, by a student that never saw this clip's rationales.

    A logistic regression on the content words that are left after the sentences with class names are deleted, fitted
    on the other folds' clips (classes weigh the same); what it says of an empty text is taken off, so that only the
    words count. It asks: is this what rationales of this class say?

    Args:
        samples (`Sequence[dict]`): Labelled rows that passed the other checks, so that the student learns from them.
        card (`TaskCard`): Names.

    Returns:
        `list[dict]`: `best` (the class it would name) and `margin` (log-odds of the label over the best other one, in
        nats; None if no content word is left).

    Raises:
        NothingKept: if a class has rationales of fewer than two clips, so that one fold would not know it.
    """
    clips: dict[str, list[str]] = {}
    for sample in samples:
        if sample["id"] not in clips.setdefault(sample["label"], []):
            clips[sample["label"]].append(sample["id"])
    for name, own in clips.items():
        if len(own) < 2 or len(clips) < 2:
            few = f"rationales of {len(own)} clip only" if len(own) < 2 else "no other class beside it"
            raise NothingKept(
                f"rebuild: words compares clips, and class '{name}' has {few}; use more shots or weaker checks, or "
                "rebuild: model or none"
            )
    # Within a class the clips are dealt in turn, so that every fold's student knows every class.
    fold = {clip: place % FOLDS for own in clips.values() for place, clip in enumerate(sorted(own))}
    texts = [without_classes(card.without_final_line(s["text"]), card)[0] for s in samples]
    gold = np.array([s["label"] for s in samples])
    of_fold = np.array([fold[s["id"]] for s in samples])
    counts = CountVectorizer(analyzer=_content_words, binary=True).fit_transform([*texts, "word"])[:-1]
    found: list[dict[str, Any]] = [{"best": None, "margin": None}] * len(samples)
    for number in np.unique(of_fold):
        student = LogisticRegression(class_weight="balanced", max_iter=1000)
        student.fit(counts[of_fold != number], gold[of_fold != number])
        here = np.flatnonzero(of_fold == number)
        odds = student.predict_log_proba(counts[here]) - student.predict_log_proba(counts[:1] * 0)
        for i, row in zip(here, odds, strict=True):
            if _content_words(texts[i]):
                found[i] = margin_of(dict(zip(student.classes_.tolist(), row.tolist(), strict=True)), gold[i])
    return found


def margin_of(scores: dict[str, float], label: str) -> dict[str, Any]:
    """`best`: the class with the highest score; `margin`: the label's score minus the best other one."""
    other = max(score for name, score in scores.items() if name != label)
    return {"best": max(scores, key=scores.__getitem__), "margin": round(float(scores[label] - other), 4)}


def not_rebuilt(sample: Sample, limits: Limits) -> str | None:
    """`argues_other`: the reasoning fits another class better, by `rebuild_margin` at least; `no_evidence`: the label
    is not ahead by that margin, or nothing is left without the sentences that name a class."""
    if limits.rebuild == "none" or sample["label"] is None:
        return None
    if (key := f"rebuilt_{limits.rebuild}") not in sample:
        raise UserError(
            f"the rationales were written without 'rebuild: {limits.rebuild}', so clip '{sample['id']}' has no score; "
            "write them again with it, or set rebuild: words, which needs no model"
        )
    margin = sample[key]["margin"]
    if margin is None or -limits.rebuild_margin < margin < limits.rebuild_margin:
        return "no_evidence"
    return "argues_other" if margin < 0 else None


def disagreement(sample: Sample, limits: Limits) -> str | None:
    """The sample agrees with the other samples of its clip by less than `min_agreement`."""
    known = sample.get("agreement")
    return "disagreement" if known is not None and known < limits.min_agreement else None
