"""How often each check of rationales is right, from rows whose truth is known: counts, intervals, tables in Markdown.

Input: rows of rationales.jsonl and the true attributes of their clips. Output: figures, and the text of the tables.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from rbft_trl.data.task import TaskCard
from rbft_trl.evidence.checklist import item_objection
from rbft_trl.evidence.metrics import wilson_interval
from rbft_trl.evidence.support import agreements, rebuilt_by_words
from rbft_trl.evidence.verify import objections
from rbft_trl.evidence.wording import words
from toy.faults import Planter
from toy.measure import parse_caption
from toy.scenes import ATTRIBUTES, LABELS

Row = dict[str, Any]
OF_CLASS = ("size", "motion")
MARGINS, AGREEMENTS = (0.0, 1.0), (0.75, 0.9)
CHECKS = (
    "no_label",
    "several",
    "wrong_label",
    "refusal",
    "repetition",
    "prompt_echo",
    "too_short",
    "too_long",
    "label_in_prompt",
)
CHECKS += ("label_in_reasoning", "hint_cited", "contradiction")
SETS = {
    "hint": "label shown, names that the base does not know",
    "known": "blind, names that the base knows",
    "unknown": "blind, names that the base does not know",
    "pool": "clips without a label",
}
# What a user would turn on → which flags drop a row.
FILTERS = {
    "none": (),
    "`checks: label_match`": ("no_label", "several", "wrong_label"),
    "`checks: all`": ("objection",),
    "all, `rebuild: words`": ("objection", "words 0"),
    "all, `rebuild: words`, margin 1": ("objection", "words 1"),
    "all, `rebuild: model`": ("objection", "model 0"),
    "all, `min_agreement: 0.75`": ("objection", "agreement 0.75"),
    "all, `min_agreement: 0.9`": ("objection", "agreement 0.9"),
    "all, words, `min_agreement: 0.9`": ("objection", "words 0", "agreement 0.9"),
}


def share(hits: Iterable[bool]) -> dict[str, Any]:
    """Share, number of cases and 95 % Wilson interval; the share of nothing is None."""
    hits = list(hits)
    if not hits:
        return {"share": None, "n": 0, "interval": None}
    interval = [round(bound, 4) for bound in wilson_interval(sum(hits), len(hits))]
    return {"share": round(sum(hits) / len(hits), 4), "n": len(hits), "interval": interval}


def cell(entry: dict[str, Any]) -> str:
    """`61 (55-67)`, in %."""
    if entry["share"] is None:
        return "–"
    low, high = entry["interval"]
    return f"{100 * entry['share']:.0f} ({100 * low:.0f}-{100 * high:.0f})"


def flags_of(samples: list[Row], card: TaskCard) -> list[set[str]]:
    """Every check that objects to each sample, whichever would be told first; `objection` for any of one text.

    `duplicate` is none of these: a sound text is not untrue where it stands twice.
    """
    flags: list[set[str]] = []
    told = set()
    for sample, agreement in zip(samples, agreements(samples, card), strict=True):
        found = set(objections(sample, card, full=True))
        said = (sample["id"], *words(card.without_final_line(sample["text"])))
        if not found:
            found |= {"duplicate"} if said in told else set()
            told.add(said)
        found |= {"objection"} if found - {"duplicate"} else set()
        found |= {f"agreement {least}" for least in AGREEMENTS if agreement is not None and agreement < least}
        flags.append(found | _low("model", sample.get("rebuilt_model")))
    passed = [i for i, found in enumerate(flags) if "objection" not in found and samples[i]["label"]]
    clips = Counter(label for label, _ in {(samples[i]["label"], samples[i]["id"]) for i in passed})
    passed = [i for i in passed if clips[samples[i]["label"]] > 1]  # stage 0 would stop here
    if len({samples[i]["label"] for i in passed}) > 1:
        for i, rebuilt in zip(passed, rebuilt_by_words([samples[i] for i in passed], card), strict=True):
            flags[i] |= _low("words", rebuilt)
    return flags


def _low(judge: str, rebuilt: Row | None) -> set[str]:
    margin = rebuilt["margin"] if rebuilt else 1e9
    return {f"{judge} {least:.0f}" for least in MARGINS if margin is None or margin < least}


class Rater:
    """Collects rows with their truth and their flags.

    Args:
        planted (`int`): Faults of each kind.
    """

    def __init__(self, *, planted: int) -> None:
        self.planted = planted
        self.rows: list[Row] = []
        self.items: list[Row] = []
        self.faults: list[Row] = []
        self.planted_into: set[str] = set()

    def add(
        self, samples: list[Row], truth: dict[str, Row], card: TaskCard, *, shift: float, names: str, told: str
    ) -> None:
        """One set of rationales. Faults are planted into the sound ones of the first sets: hinted where the names mean
        nothing, blind where the base knows them."""
        for of_pool in (False, True):
            own = [s for s in samples if (s["label"] is None) == of_pool]
            if not own or (names == "known" and told == "hint") or (of_pool and names == "made up"):
                continue
            kind = "pool" if of_pool else "hint" if told == "hint" else "known" if names == "known" else "unknown"
            for sample, flags in zip(own, flags_of(own, card), strict=True):
                right = _right(card.without_final_line(sample["text"]), truth[sample["id"]])
                self.rows.append({"set": kind, "shift": shift, "flags": flags, "right": right})
            if kind in ("hint", "known") and kind not in self.planted_into:
                self.planted_into.add(kind)
                sound = [s for s in own if all(_right(s["text"], truth[s["id"]])[a] for a in OF_CLASS)]
                none = "none" if kind == "hint" else "none, blind"
                self._plant([s for s in sound if not list(objections(s, card, full=True))], card, none)

    def _plant(self, sound: list[Row], card: TaskCard, none: str) -> None:
        far = {name: next(n for n, pair in LABELS.items() if not set(pair) & set(own)) for name, own in LABELS.items()}
        planter = Planter(sound, card, far)
        self.faults += [{"fault": none, "flags": flags} for flags in flags_of(sound, card)]
        for fault in planter.makers:
            rows, places = planter.plant(fault, self.planted)
            flags = flags_of(rows, card)
            self.faults += [{"fault": fault, "flags": flags[place]} for place in sorted(places)]

    def add_checklist(self, samples: list[Row], truth: dict[str, Row], card: TaskCard, *, shift: float) -> None:
        """Answers of one set."""
        asked = [question.text for question in card.checklist]
        attributes = ("size", "motion", "count", "colour", "shape", "speed")
        of_question = dict(zip(asked, attributes, strict=True))
        for sample in samples:
            for item in sample["items"]:
                true = item["answer"] == truth[sample["id"]][of_question[item["question"]]]
                codes = {m: item_objection(item, sample["label"], card, margin=m) for m in (0.0, 1.0, 2.0)}
                row = {"attribute": of_question[item["question"]], "labelled": sample["label"] is not None}
                self.items.append(row | {"shift": shift, "true": true, "codes": codes})

    def rated(self) -> Row:
        """All figures."""
        return {
            "sets": {kind: self._of_set([r for r in self.rows if r["set"] == kind]) for kind in SETS},
            "by_shift": {
                str(shift): {kind: self._left(kind, shift) for kind in SETS}
                for shift in sorted({row["shift"] for row in self.rows})
            },
            "faults": self._of_faults(),
            "checklist": self._of_checklist(),
        }

    def _left(self, kind: str, shift: float) -> Row:
        found = self._of_set([row for row in self.rows if row["set"] == kind and row["shift"] == shift])
        return {key: value for key, value in found.items() if key != "checks"}

    def _of_set(self, rows: list[Row]) -> Row:
        codes = [*CHECKS, *(f"words {margin:.0f}" for margin in MARGINS), "model 0"]
        codes += [f"agreement {least}" for least in AGREEMENTS]
        truths: dict[str, Callable[[Row], bool]] = {
            "class": lambda row: all(row["right"][a] for a in OF_CLASS),
            "all": lambda row: all(row["right"].values()),
        }
        found: Row = {"n": len(rows), "checks": {}, "filters": {}}
        for name, good in truths.items():
            found[f"bad_{name}"] = share(not good(row) for row in rows)
            for code in codes:
                entry = found["checks"].setdefault(code, {"flagged": sum(code in row["flags"] for row in rows)})
                entry[f"precision_{name}"] = share(not good(row) for row in rows if code in row["flags"])
                entry[f"recall_{name}"] = share(code in row["flags"] for row in rows if not good(row))
                entry[f"false_alarms_{name}"] = share(code in row["flags"] for row in rows if good(row))
        for title, drop in FILTERS.items():
            kept = [row for row in rows if not row["flags"] & set(drop)]
            found["filters"][title] = {"kept": share(not row["flags"] & set(drop) for row in rows)}
            found["filters"][title] |= {name: share(map(good, kept)) for name, good in truths.items()}
        return found

    def _of_faults(self) -> Row:
        found: Row = {}
        for fault in dict.fromkeys(row["fault"] for row in self.faults):
            flags = [row["flags"] for row in self.faults if row["fault"] == fault]
            own = set() if fault.startswith("none") else {"duplicate"}  # a sound text again is no false alarm
            by = Counter(code for one in flags for code in one if code in own.union(CHECKS))
            dropped = own | {"objection"}
            found[fault] = {
                "all": share(bool(one & dropped) for one in flags),
                "words": share(bool(one & (dropped | {"words 0"})) for one in flags),
                "agreement": share(bool(one & (dropped | {"agreement 0.75"})) for one in flags),
                "both": share(bool(one & (dropped | {"words 0", "agreement 0.75"})) for one in flags),
                "codes": dict(by.most_common()),
            }
        return found

    def _of_checklist(self) -> Row:
        found: Row = {}
        for attribute in (*OF_CLASS, "count", "colour", "shape", "speed"):
            for labelled in (True, False):
                rows = [r for r in self.items if r["attribute"] == attribute and r["labelled"] == labelled]
                found[f"{attribute}, {'labelled' if labelled else 'pool'}"] = {
                    str(m): {
                        "kept": share(row["codes"][m] is None for row in rows),
                        "true": share(row["true"] for row in rows if row["codes"][m] is None),
                        "precision": share(not row["true"] for row in rows if row["codes"][m] is not None),
                        "recall": share(row["codes"][m] is not None for row in rows if not row["true"]),
                    }
                    for m in (0.0, 1.0, 2.0)
                } | {"answers": share(row["true"] for row in rows)}
        return found


def _right(text: str, truth: Row) -> dict[str, bool]:
    said = parse_caption(text)
    return {attribute: said[attribute] == truth[attribute] for attribute in ATTRIBUTES}
