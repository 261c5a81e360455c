"""The rating of checks on the toy domain: planted faults are what they say, shares are right, tables hold no gap."""

import re
from pathlib import Path
from typing import Any

import pytest

from rbft_trl.data.jsonl import read_json
from rbft_trl.data.task import TaskCard
from tests.helpers import REPOSITORY
from toy.faults import AGAIN, Planter
from toy.rate_checks import main
from toy.rates import Rater, cell, flags_of, share
from toy.scenes import ATTRIBUTES, LABELS

CARD = TaskCard.from_yaml(REPOSITORY / "recipes/tasks/toy.yaml", with_data=False)
FAR = {name: next(n for n, pair in LABELS.items() if not set(pair) & set(own)) for name, own in LABELS.items()}


def sound(clips: int = 4, *, shown: bool = True, varied: bool = False) -> list[dict[str, Any]]:
    rows = []
    for name, (size, motion) in LABELS.items():
        for i in range(clips):
            for sample in range(2):
                text = f"{ATTRIBUTES['count'][i % 3]} {size} {ATTRIBUTES['colour'][i]} circle moving {motion} "
                text += f"{ATTRIBUTES['speed'][sample if varied else 0]}."
                row = {"id": f"{name}{i}", "label": name, "sample": sample, "shown": shown, "prompt_fingerprint": None}
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
        ("argument from the hint", {"hint_cited"}),
        ("copy of the prompt", {"prompt_echo"}),
        ("endless text", {"too_long"}),
        (AGAIN, {"duplicate"}),
        ("several names, blind", {"several"}),
    ],
)
def test_planted_faults_are_found_and_one_per_clip(fault: str, expected: set[str]) -> None:
    clean = sound(shown=not fault.endswith("blind"), varied=fault == AGAIN)
    rows, places = Planter(clean, CARD, FAR).plant(fault, 12)
    changed = {i for i, (row, was) in enumerate(zip(rows, clean, strict=True)) if row != was}
    assert changed == places and len({rows[i]["id"] for i in places}) == len(places) == 12
    said = {i: CARD.parse_label(rows[i]["text"], require_prefix=True) for i in places}
    assert all(name == (None if expected == {"several"} else rows[i]["label"]) for i, name in said.items())
    flags = flags_of(rows, CARD)
    assert all(expected <= flags[i] for i in places)
    assert not [found for found in flags_of(clean, CARD) if "objection" in found]


def test_every_fault_is_made() -> None:
    planter = Planter(sound(), CARD, FAR)
    same, places = planter.plant("rationale of another clip of the class", 12)
    for i in places:
        size, motion = LABELS[same[i]["label"]]
        assert f" {size} " in same[i]["text"] and f" {motion} " in same[i]["text"]
    copied, places = planter.plant("label copied without evidence", 12)
    assert not [i for i in places if any(word in copied[i]["text"] for word in ATTRIBUTES["colour"])]
    endless, places = planter.plant("endless text", 12)
    flags = flags_of(endless, CARD)
    assert not [i for i in places if "repetition" in flags[i]]


def test_a_blind_copy_of_the_label_is_found_where_the_name_is_all_there_is() -> None:
    clean = sound(shown=False)
    rows, places = Planter(clean, CARD, FAR).plant("label copied without evidence, blind", 32)
    flags, found = flags_of(rows, CARD), set()
    for i in places:
        parts = CARD.without_final_line(rows[i]["text"]).split(".")
        left = " ".join(part for part in parts if rows[i]["label"] not in part).split()
        named = len(left) < 5
        assert ("label_in_reasoning" in flags[i]) == named
        found.add(named)
    assert found == {True, False}, "both kinds are planted"


def test_a_sound_text_that_stands_twice_is_no_false_alarm() -> None:
    rows = [row | {"sample": sample} for row in sound(varied=True) for sample in (row["sample"], row["sample"] + 2)]
    rater = Rater(planted=6)
    rater._plant(rows, CARD, "none")
    found = rater.rated()["faults"]
    assert found["none"]["all"]["share"] == 0 and found["none"]["codes"] == {}
    assert found[AGAIN]["all"] == share([True] * 6) and found[AGAIN]["codes"] == {"duplicate": 6}


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
    assert "| argument from the hint | 100 (" in text and "| several names, blind | 100 (" in text


def test_the_shipped_tables_are_those_of_the_shipped_figures() -> None:
    from toy.rates_text import tables

    page = (REPOSITORY / "docs/rationales.md").read_text(encoding="utf-8")
    (between,) = re.findall(r"rate_checks.py -->\n(.*)<!-- end -->", page, re.DOTALL)
    assert between == tables(read_json(REPOSITORY / "docs/rationales.json"))
