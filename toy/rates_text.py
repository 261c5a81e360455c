"""The tables of docs/rationales.md from the figures of toy/rates.py.

Input: figures. Output: Markdown.
"""

from typing import Any

from toy.rates import SETS, cell

Row = dict[str, Any]
TITLES = {
    "words 0": "`rebuild: words`, margin 0",
    "words 1": "`rebuild: words`, margin 1",
    "model 0": "`rebuild: model`, margin 0",
    "agreement 0.75": "`min_agreement: 0.75`",
    "agreement 0.9": "`min_agreement: 0.9`",
}


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """One table and the empty line after it."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return [lines[0], "|---" * len(head) + "|", *lines[1:], ""]


def tables(rated: Row) -> str:
    """All tables: what was rated, precision and recall, what filters leave, planted faults, checklists."""
    return "\n".join([*_what(rated), *_precision(rated), *_left(rated), *_faults(rated), *_checklist(rated)])


def _what(rated: Row) -> list[str]:
    clips, shifts = rated["clips"], ", ".join(f"{shift:g}" for shift in rated["shifts"])
    return [
        "Rated by `python toy/rate_checks.py`",
        f"on {clips['labelled']} labelled clips and {clips['pool']} others at each of the",
        f"shifts {shifts},",
        f"{rated['samples']} rationales per clip at temperature {rated['temperature']}. In % (95 % Wilson interval;",
        "the rationales of one clip are alike, so the intervals are too narrow). docs/rationales.json has each shift.",
        "",
    ]


def _precision(rated: Row) -> list[str]:
    lines = [
        "### Precision and recall",
        "",
        "Bad: size or direction, which make the class, are told wrongly. Precision: how much of what is",
        "dropped is bad. Recall: how much of what is bad it drops. False alarms: how much of what is good it drops.",
        "The last two columns: bad if any of six attributes is wrong. Checks without a drop are left out.",
        "",
    ]
    head = ["check", "drops", "precision", "recall", "false alarms", "precision, any", "recall, any"]
    for kind, title in SETS.items():
        found = rated["sets"][kind]
        bad = f"bad {cell(found['bad_class'])} %, any attribute wrong {cell(found['bad_all'])} %"
        lines += [f"*{title.capitalize()}*: {found['n']:,} rationales, {bad}.", ""]
        rows = [
            [TITLES.get(code, f"`{code}`"), f"{entry['flagged']:,}"]
            + [cell(entry[f"{what}_class"]) for what in ("precision", "recall", "false_alarms")]
            + [cell(entry[f"{what}_all"]) for what in ("precision", "recall")]
            for code, entry in found["checks"].items()
            if entry["flagged"]
        ]
        lines += table(head, rows)
    return lines


def _left(rated: Row) -> list[str]:
    rows = [
        [title, name, cell(entry["kept"]), cell(entry["class"]), cell(entry["all"])]
        for kind, title in SETS.items()
        for name, entry in rated["sets"][kind]["filters"].items()
        if kind != "pool" or not ("rebuild" in name or "words" in name or "label_match" in name)
    ]
    head = ["rationales", "filter", "kept", "size and direction right", "all attributes right"]
    return ["### What is left", "", *table(head, rows)]


def _faults(rated: Row) -> list[str]:
    lines = [
        "### Planted faults",
        "",
        f"{rated['planted']} of each kind (or as many as are told), one per clip, in sound rationales at shift",
        f"{rated['shifts'][0]:g}: hinted ones, or blind ones with known names where the fault is called blind.",
        "Share that is found; rows without a fault tell false alarms. Words: with `rebuild: words`; agreement: with",
        "`min_agreement: 0.75`. `label_in_prompt` and `cut` are no faults of a text, so they are not planted.",
        "",
    ]
    rows = [
        [fault.replace("none", "none: false alarms") + _fewer(fault, entry["all"]["n"], rated["planted"])]
        + [cell(entry[key]) for key in ("all", "words", "agreement", "both")]
        + [", ".join(f"{code} {count}" for code, count in entry["codes"].items()) or "–"]
        for fault, entry in rated["faults"].items()
    ]
    head = ["fault", "`checks: all`", "+ words", "+ agreement", "+ both", "objections of `all`"]
    return lines + table(head, rows)


def _fewer(fault: str, count: int, planted: int) -> str:
    """How many faults there were, where it is not as many as wanted."""
    return "" if fault.startswith("none") or count == planted else f" ({count})"


def _checklist(rated: Row) -> list[str]:
    lines = ["### Checklists", "", "True: answers that are true. Recall: how much of what is false is left out.", ""]
    margins = ("0.0", "1.0", "2.0")
    rows = [
        [name, cell(entry["answers"])] + [cell(entry[m][what]) for m in margins for what in ("kept", "true", "recall")]
        for name, entry in rated["checklist"].items()
    ]
    head = ["question about", "true"]
    head += [f"{what}, margin {float(m):g}" for m in margins for what in ("kept", "true", "recall")]
    return lines + table(head, rows)
