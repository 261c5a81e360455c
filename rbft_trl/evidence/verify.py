"""Checks of rationales: pure functions that return a reason code, or None if there is nothing to object to.

Input: rows of rationales.jsonl and the task card. Output: the same rows in the same order, with verdict and reason.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from rbft_trl.data.task import TaskCard, normalise
from rbft_trl.errors import NothingKept
from rbft_trl.evidence.checklist import no_item
from rbft_trl.evidence.support import Limits, agreements, disagreement, not_rebuilt, rebuilt_by_words
from rbft_trl.evidence.wording import claimed_and_denied, runs, without_classes, words

Sample = dict[str, Any]
Mode = Literal["none", "label_match", "all"]
VERDICTS = ("kept", "dropped", "unlabelled")

MIN_WORDS, MAX_WORDS = 5, 400  # of the reasoning; a toy caption has 7 words, the authors' rationales 50-200
ECHO_WORDS = 10  # a run of the prompt this long is a copy; shorter ones are the task's own vocabulary
# "I cannot see a weapon" is evidence; only not being able to do the task is a refusal. English only.
MEDIA = "(?:videos?|clips?|images?|pictures?|footage|frames)"
UNABLE = r"\bi(?: am|'m)?(?: can't| cannot| can not| unable to| not able to| won't)"
TASK_VERBS = "help|assist|comply|fulfil|process|analy[sz]e|classify|answer (?:this|that|the question)"
ON_MEDIA = "watch|view|access|play|open|see|describe|identify|make out|determine"  # with a medium as its object
THIS = "(?:the|this|that|any|your)"
LATER = "after|before|when|while|once|until|behind"  # what happens then may be hidden in a clip that is seen
REFUSAL = re.compile(
    rf"{UNABLE} (?:(?:{TASK_VERBS})\b|(?:{ON_MEDIA})(?: the contents? of)?(?: {THIS})? {MEDIA}\b"
    rf"|(?:tell|say|know|determine) what (?:happens|is happening|is shown) in {THIS} {MEDIA}\b(?! (?:{LATER})\b)"
    r"|do (?:this|that)\b"
    r"|provide (?:a|an|any) (?:description|answer|classification|label)\b|identify (?:people|persons|individuals)\b)"
    r"|\bsorry,? (?:but )?i(?: am|'m)? (?:can't|cannot|can not|unable|not able|won't|do not have|don't have)\b"
    r"|\bas an? (?:ai|(?:large )?language model)\b"
    rf"|\bi (?:do not|don't) see (?:any|a|the) {MEDIA}\b"
    rf"|\bthere is no {MEDIA} (?:to (?:look|watch|see|describe|view)|attached|here)\b"
    rf"|\bplease (?:provide|upload|attach|share|send) (?:me )?(?:the|a|an|your) {MEDIA}\b"
    r"|\bno (?:video|clip|image)s? (?:was|were|is|has been|have been) (?:provided|attached|given|uploaded)"
    r"|\b(?:video|clip|image)s? (?:is|are|was|were) not (?:available|accessible|provided|attached|given|uploaded)"
    r"|\b(?:the|this|that) (?:video|clip|image|footage|file)s? (?:can't|cannot|can not|couldn't|could not|failed to)"
    r" (?:be )?(?:load|play|access|view|decod|process)(?:ed)?\b"
    r"|\bi (?:do not|don't) have (?:any |direct )?(?:access|the ability|a way) to\b"
)


# Words by which a rationale shows that it was told the answer. English only, as the package's own hint prompt is.
LABEL = "(?:label|class|classification|category|annotation)"
CITED = re.compile(
    r"\bexperts? (?:say|said|state|claim)|\bexpert(?:'s)? opinion\b"
    r"|\b(?:an|the|this) expert(?:'s)? (?:note|assess|annotat|label|judg|classif)"
    r"|\bas (?:an|the|this) expert (?:points? out|pointed out|mention|suggest|indicat|conclud|explain)"
    r"|\b(?:the|this) expert (?:is|was) (?:right|correct)(?: (?:that|in saying|to say)\b|[,:;.!]|$)"
    r"|\b(?:according to|(?:consistent|in line|agrees?) with) (?:an|the|this) expert\b"
    rf"|(?<!\bany )\b(?:given|provided|stated|mentioned|hinted|gold) (?:{LABEL}|answer\b(?! on\b))"
    rf"|\b(?:{LABEL}|answer) (?:that (?:was|is) )?(?:given|provided|told) to (?:me|us)\b"
    rf"|\bi (?:was|am|have been) (?:told|given the (?:\w+ )?(?:{LABEL}|answer))\b"
    r"|\b(?:clip|video) (?:is|was) label?led\b|\b(?:know|knowing) (?:that )?the (?:answer|label|class)\b"
    r"|\bas (?:stated|given|told|labell?ed|mentioned)\b|\b(?:the|a) hint\b(?! (?:of|that)\b)"
    r"|\bground[- ]truth\b"
)
# The same where the label follows: a class may be over, and people in a clip say "you said that …" as well.
CITED_LABEL = (
    rf"(?:(?:since|because|as|given that) the (?:\w+ )?(?:{LABEL}|answer) (?:is|was)"
    r"|you (?:say|said|told me|stated|mentioned)(?: that)? (?:it|this|the \w+) (?:is|was|shows?))(?: an?| the)?"
)


def no_label(text: str, card: TaskCard) -> str | None:
    """The last line must be `Classification: <name>` with exactly one class of the card, the same as in any such line
    before it (else `several`), or `Answer: ` with one open answer (then the code says what is wrong with it)."""
    return card.unread(text)


def wrong_label(text: str, gold: str, card: TaskCard) -> str | None:
    """The last line must name the gold label (an open answer near it); a text without is `no_label`'s business."""
    return None if card.unread(text) else card.objection(text, gold)


def refusal(reasoning: str) -> str | None:
    """The model says that it cannot do the task instead of doing it."""
    plain = normalise(reasoning.replace("\u2019", "'"))
    return "refusal" if REFUSAL.search(plain) else None


def length(reasoning: str, *, min_words: int = MIN_WORDS, max_words: int = MAX_WORDS) -> str | None:
    """The reasoning before the final line must have `min_words` to `max_words` words; none at all is too short."""
    count = len(words(reasoning))
    return "too_short" if count < min_words else "too_long" if count > max_words else None


def repetition(reasoning: str, *, longest: int = 20, distinct: float = 0.5) -> str | None:
    """A loop: a phrase said again at once (1-2 words four times, 3 to `longest` words three times), or less than the
    share `distinct` of all runs of four words are different (for loops with small changes)."""
    said = words(reasoning)
    for size in range(1, min(longest, len(said) // 3) + 1):
        times, same = (4 if size < 3 else 3), 0
        for a, b in zip(said, said[size:], strict=False):
            same = same + 1 if a == b else 0
            if same >= size * (times - 1):
                return "repetition"
    grams = runs(said, 4)
    return "repetition" if len(said) >= 20 and len(set(grams)) < distinct * len(grams) else None


def prompt_echo(reasoning: str, prompt: str, definitions: Sequence[str] = (), *, run: int = ECHO_WORDS) -> str | None:
    """`run` words in a row are copied from the prompt. Quoting one definition is an argument, not an echo."""
    copied = set(runs(words(reasoning), run)) & _prompt_runs(prompt, tuple(definitions), run)
    return "prompt_echo" if copied else None


def label_in_prompt(sample: Sample, card: TaskCard) -> str | None:
    """A row that says that its label was not shown must answer the card's blind prompt, where the names stand only
    in the closed list. Rows without a fingerprint (written by hand) say nothing to check."""
    if sample.get("shown") or sample.get("prompt_fingerprint") is None:
        return None
    return "label_in_prompt" if sample["prompt_fingerprint"] not in card.blind_fingerprints() else None


def hint_cited(reasoning: str, label: str | None = None) -> str | None:
    """A rationale that argues from what it was told ("as the expert says", "since the label is `label`") teaches the
    student nothing to look at."""
    plain = normalise(reasoning.replace("\u2019", "'"))
    named = rf"\b{CITED_LABEL} [\"']?{re.escape(normalise(label))}(?!\w)" if label else None
    return "hint_cited" if CITED.search(plain) or (named and re.search(named, plain)) else None


def label_in_reasoning(reasoning: str, card: TaskCard, *, min_words: int = MIN_WORDS) -> str | None:
    """A blind rationale must not argue from a name: without the sentences that name any class, `min_words` words
    must be left. (Deleting those sentences is RISE's test, arXiv 2508.13229.) A name may be an everyday word, such
    as `running`, so one sentence that holds it beside others that describe the clip is no fault."""
    free, named = without_classes(reasoning, card)
    return "label_in_reasoning" if named and len(words(free)) < min_words else None


def contradiction(reasoning: str, concluded: str, card: TaskCard) -> str | None:
    """The reasoning claims another class than the final line, or denies the one of the final line ("no signs of x …
    Classification: x"), and nowhere claims it. Only names of classes are read; what argues against a class in other
    words is found by rebuilding the label (evidence/support.py). English only, as far as denials go."""
    claimed, denied = claimed_and_denied(reasoning, card)
    if concluded in claimed:
        return None
    return "contradiction" if claimed or concluded in denied else None


def check_rationales(
    samples: list[Sample], card: TaskCard, *, mode: Mode, limits: Limits | None = None
) -> list[Sample]:
    """Gives every sample a verdict and a reason; no row is left out and the order stays.

    Args:
        samples (`list[dict]`): Rows of rationales.jsonl, with or without a verdict from before. What a person decided
            (`reviewed`) stays.
        card (`TaskCard`): Names, final line and prompts.
        mode (`str`): `"none"` keeps all, as the paper does, and warns with the share of wrong final lines;
            `"label_match"` drops `no_label`, `several` and `wrong_label`; `"all"` applies every check of one text. The
            first reason found is stored; what explains a missing final line (refusal, loop, echo) is looked at first.
        limits (`Limits`, *optional*): Thresholds of the checks that look beyond the text; without any they are off.

    Returns:
        `list[dict]`: Copies with `verdict` (`"kept"`, `"dropped"`; without a gold label `"unlabelled"`, which is kept
        and trained without the final line, or `"dropped"`) and `reason` (a code or None); with several samples per
        clip also `agreement`.

        A duplicate is a second sample of the *same* clip with the same reasoning; two clips may well look alike and
        get the same short description.
    """
    assert mode in ("none", "label_match", "all"), mode
    limits = limits or Limits()
    if mode == "none":
        _warn_of_wrong_lines([sample for sample in samples if sample.get("prompt") is None], card)
    checked, said = [], set()
    for sample, agreement in zip(samples, agreements(samples, card), strict=True):
        assert sample["label"] is None or card.is_open or sample["label"] in card.labels, sample["label"]
        reason = (
            None
            if mode == "none" and "items" not in sample
            else next(objections(sample, card, full=mode == "all"), None)
        )
        trained = sample["text"].strip() if sample["label"] else card.without_final_line(sample["text"])
        if not trained:
            reason = reason or "too_short"  # in every mode: there would be nothing to train on
        if mode == "all" and reason is None:
            key = (sample["id"], tuple(words(card.without_final_line(sample["text"]))))
            reason = "duplicate" if key in said else None
            said.add(key)
        row = sample | {"reason": reason} | ({} if agreement is None else {"agreement": round(agreement, 3)})
        row["reason"] = row["reason"] or disagreement(row, limits)
        checked.append(row)
    _rebuild(checked, card, limits)
    for sample, row in zip(samples, checked, strict=True):
        row["verdict"] = "dropped" if row["reason"] else "unlabelled" if row["label"] is None else "kept"
        if sample.get("reviewed"):
            row |= {key: sample[key] for key in ("verdict", "reason")}
    return checked


def _rebuild(rows: list[Sample], card: TaskCard, limits: Limits) -> None:
    """Looks whether the label of every row that passed so far follows from its reasoning."""
    passed = [row for row in rows if row["reason"] is None and row["label"] is not None]
    if limits.rebuild == "words" and passed:
        for row, rebuilt in zip(passed, rebuilt_by_words(passed, card), strict=True):
            row["rebuilt_words"] = rebuilt
    for row in passed:
        row["reason"] = not_rebuilt(row, limits)


def kept_share(samples: list[Sample], card: TaskCard) -> dict[str, dict[str, Any]]:
    """How many samples are kept, per class, for all labelled ones (`overall`) and for the pool (`unlabelled`).

    Returns:
        `dict`: name → `{"kept": int, "total": int, "share": float or None}`; the share of nothing is None.
    """
    kept = Counter(s["label"] for s in samples if s["verdict"] in ("kept", "unlabelled"))
    total = Counter(s["label"] for s in samples)
    taken = ("overall", "unlabelled")
    shares = {f"{n} (class)" if n in taken else n: _share(kept[n], total[n]) for n in card.names}
    labelled = _share(kept.total() - kept[None], total.total() - total[None])
    return shares | {"overall": labelled, "unlabelled": _share(kept[None], total[None])}


def require_every_class(samples: list[Sample], card: TaskCard) -> None:
    """Stops where a class (or open answers as a whole) would be trained without a single rationale.

    Raises:
        NothingKept: names the first such class, its count and why its rationales were dropped.
    """
    for name in [card.answer.type] if card.is_open else card.names:
        own = [s for s in samples if s["label"] == name or (card.is_open and s["label"] is not None)]
        if any(s["verdict"] == "kept" for s in own):
            continue
        reasons = ", ".join(f"{count} {why}" for why, count in Counter(s["reason"] for s in own).most_common())
        kind = "answer type" if card.is_open else "class"
        raise NothingKept(
            f"{kind} '{name}' has no kept rationale: 0 of {len(own)}{f' ({reasons})' if own else ''}; "
            "write more samples (num_samples), show the label where it is not (label_shown: blind_then_hint), use "
            "weaker checks or more shots"
        )


def objections(sample: Sample, card: TaskCard, *, full: bool) -> Iterator[str]:
    """Every objection to one sample by itself, the one that is stored first; `full` is mode "all"."""
    text, gold = sample["text"], sample["label"]
    if "items" in sample:  # answers of a checklist were filtered one by one
        yield from filter(None, [no_item(sample)])
        return
    reasoning, blind = card.without_final_line(text), not sample.get("shown")
    found: list[str | None] = ["cut" if sample.get("cut") and (full or gold is None) else None]
    if full:
        found += [refusal(reasoning), repetition(reasoning)]
        lines = [f"{name}: {meaning}" for name, meaning in card.labels.items()]
        prompts = [card.rationale_prompt(None if blind else gold, definitions=known) for known in (True, False)]
        found.append(next(filter(None, (prompt_echo(reasoning, prompt, lines) for prompt in prompts)), None))
    if gold is not None:
        found += [no_label(text, card), wrong_label(text, gold, card)]
    if full:
        found += [length(reasoning), label_in_prompt(sample, card)]
        found.append(label_in_reasoning(reasoning, card) if blind else hint_cited(reasoning, gold))
    if full and gold is not None:
        found.append(contradiction(reasoning, gold, card))
    yield from filter(None, found)


def _warn_of_wrong_lines(samples: list[Sample], card: TaskCard) -> None:
    labelled = [s for s in samples if s["label"] is not None]
    wrong = sum(card.objection(s["text"], s["label"]) is not None for s in labelled)
    if wrong:
        warnings.warn(
            f"checks: none keeps {wrong} of {len(labelled)} rationales ({wrong / len(labelled):.0%}) whose final line "
            "does not name the gold label; checks: label_match drops them",
            stacklevel=3,
        )


@lru_cache(maxsize=256)
def _prompt_runs(prompt: str, definitions: tuple[str, ...], run: int) -> frozenset[tuple[str, ...]]:
    allowed = {gram for text in definitions for gram in runs(words(text), run)}
    return frozenset(set(runs(words(prompt), run)) - allowed)


def _share(kept: int, total: int) -> dict[str, Any]:
    return {"kept": kept, "total": total, "share": kept / total if total else None}
