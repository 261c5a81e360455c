"""The rating of checks on the toy domain: planted faults are what they say, shares are right, tables hold no gap."""

import re
from pathlib import Path
from typing import Any

import pytest

from rbft_trl.data.jsonl import read_json
from rbft_trl.data.task import TaskCard
from rbft_trl.evidence.verify import objections
from tests.helpers import REPOSITORY
from toy.faults import Planter
from toy.rate_checks import main
from toy.rates import cell, flags_of, share
from toy.scenes import ATTRIBUTES, LABELS

CARD = TaskCard.from_yaml(REPOSITORY / "recipes/tasks/toy.yaml", with_data=False)
FAR = {name: next(n for n, pair in LABELS.items() if not set(pair) & set(own)) for name, own in LABELS.items()}


def sound(clips: int = 4) -> list[dict[str, Any]]:
    rows = []
    for name, (size, motion) in LABELS.items():
        for i in range(clips):
            for sample in range(2):
                text = f"{ATTRIBUTES['count'][i % 3]} {size} {ATTRIBUTES['colour'][i]} circle moving {motion} slowly."
                row = {"id": f"{name}{i}", "label": name, "sample": sample, "shown": True, "prompt_fingerprint": None}
                rows.append(row | {"text": f"{text}\n{CARD.final_line(name)}"})
    return rows


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("opposite argument, in names", {"contradiction"}),
        ("loop", {"repetition"}),
        ("refusal", {"refusal"}),
        ("opposite argument, in attributes", {"words 0"}),
        ("rationale of a clip of another class", {"words 0"}),
    ],
)
def test_planted_faults_are_found_and_one_per_clip(fault: str, expected: set[str]) -> None:
    planter = Planter(sound(), CARD, FAR)
    rows, places = planter.plant(fault, 12)
    changed = {i for i, (row, was) in enumerate(zip(rows, sound(), strict=True)) if row != was}
    assert changed == places and len({rows[i]["id"] for i in places}) == len(places) == 12
    assert all(CARD.parse_label(rows[i]["text"], require_prefix=True) == rows[i]["label"] for i in places)
    flags = flags_of(rows, CARD)
    assert all(expected <= flags[i] for i in places)
    assert not [row for row in sound() if list(objections(row, CARD, full=True))]


def test_every_fault_is_made() -> None:
    planter = Planter(sound(), CARD, FAR)
    same, places = planter.plant("rationale of another clip of the class", 12)
    for i in places:
        size, motion = LABELS[same[i]["label"]]
        assert f" {size} " in same[i]["text"] and f" {motion} " in same[i]["text"]
    copied, places = planter.plant("label copied without evidence", 12)
    assert not [i for i in places if any(word in copied[i]["text"] for word in ATTRIBUTES["colour"])]


def test_shares() -> None:
    assert share([]) == {"share": None, "n": 0, "interval": None} and cell(share([])) == "–"
    assert cell(share([True] * 8 + [False] * 2)) == "80 (49-94)"


def test_the_command_writes_every_table(tmp_path: Path) -> None:
    (tmp_path / "rationales.md").write_text(
        "before\n<!-- written by toy/rate_checks.py -->\nOUTDATED\n<!-- end -->\nafter\n"
    )
    main(["--labelled", "3", "--pool", "4", "--planted", "6", "--shifts", "0.2", "--docs", str(tmp_path)])
    text = (tmp_path / "rationales.md").read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("<!-- end -->\nafter\n") and "OUTDATED" not in text
    rated = read_json(tmp_path / "rationales.json")
    assert rated["sets"]["hint"]["n"] == 3 * 8 * 4 and rated["faults"]["loop"]["all"]["share"] == 1
    assert "| loop | 100 (" in text and "| size, labelled | " in text


def test_the_shipped_tables_are_those_of_the_shipped_figures() -> None:
    from toy.rates_text import tables

    page = (REPOSITORY / "docs/rationales.md").read_text(encoding="utf-8")
    (between,) = re.findall(r"rate_checks.py -->\n(.*)<!-- end -->", page, re.DOTALL)
    assert between == tables(read_json(REPOSITORY / "docs/rationales.json"))
