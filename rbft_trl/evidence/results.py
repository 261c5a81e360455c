"""A comparison in one small file that can be committed: every statistic can be computed again from it.

Input: comparison.json with its predictions. Output: results.jsonl: a head (classes, test clips and arms, once), then
one line per cell with the class index of every prediction, what it cost, and the metrics that need scores.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rbft_trl.data.jsonl import read_jsonl, write_text
from rbft_trl.data.task import fingerprint
from rbft_trl.errors import UserError
from rbft_trl.evidence.metrics import index_metrics
from rbft_trl.evidence.outcomes import read_outcomes
from rbft_trl.evidence.stats import COSTS, summarise

KEPT = (*COSTS, "shuffled_accuracy", "validation_accuracy", "stage1_steps", "kept", "yields", "trials")
SCORED = ("brier", "nll", "aurc", "top_k", "generated_accuracy", "generated_invalid_rate", "seconds_per_clip")
FORMAT = 2


def write_results(path: str | Path, comparison: dict[str, Any], *, names: Sequence[str]) -> None:
    """Writes all rungs of a comparison. Curves, rationales and scores of single clips are left out.

    Args:
        path (`Path`): The file.
        comparison (`dict`): Content of comparison.json; its predictions files must be there.
        names (`list[str]`): Every class of the card.
    """
    rungs = _rungs(comparison)
    arms = {arm: entry for rung in rungs for arm, entry in rung["arms"].items()}
    told = {arm: {key: e[key] for key in ("description", "role") if key in e} for arm, e in arms.items()}
    clips: dict[str, Any] = {}
    lines = []
    for rung in rungs:
        for arm, entry in rung["arms"].items():
            for draw in entry["draws"]:
                made = {"shots": rung.get("shots"), "arm": arm, "draw": draw["draw"]}
                made |= {key: draw[key] for key in KEPT if draw.get(key) is not None}
                made |= _cell(clips, "", draw, names)
                other = draw.get("elsewhere", {}).items()
                found = {
                    card: _cell(clips, card, {"draw": draw["draw"]} | c, c["metrics"]["confusion"]["labels"])
                    for card, c in other
                }
                lines.append(made | ({"elsewhere": found} if found else {}))
    head = {"format": FORMAT, **{key: comparison[key] for key in ("task", "created", "note")}}
    head |= {"settings": comparison.get("settings", {}), "arms": told}
    head |= {"labels": rungs[0]["labels"]} if "labels" in rungs[0] else {}
    head |= {"clips": {card: entry for card, (_, entry) in clips.items()}}
    head["left_out"] = [
        {"shots": rung.get("shots"), "arm": arm, "why": why}
        for rung in rungs
        for arm, why in rung.get("left_out", {}).items()
    ]
    _write(path, head, lines)


def read_results(path: str | Path, arms: Sequence[str] = ()) -> dict[str, Any]:
    """A comparison from its file, with all statistics, as compare.py writes it; no other file is read.

    Args:
        path (`Path`): The file.
        arms (`list[str]`, *optional*): Of these alone, as if no other had been run: p-values are corrected for them.

    Raises:
        UserError: if the file is missing, damaged or of another format.
    """
    head, lines = _read(path)
    lines = [cell for cell in lines if not arms or cell["arm"] in arms]
    head["left_out"] = [lost for lost in head["left_out"] if not arms or lost["arm"] in arms]
    rungs: dict[Any, dict[str, Any]] = {}
    for cell in lines:
        of = {"shots": cell["shots"], "labels": head.get("labels")}
        rung = rungs.setdefault(cell["shots"], of | {"arms": {}, "clips": _clips(head, "")})
        entry = rung["arms"].setdefault(cell["arm"], head["arms"][cell["arm"]] | {"draws": []})
        own = {key: cell.get(key) for key in ("draw", *KEPT)} | {"curves": [], "rationales": None}
        own |= _read_cell(head, "", cell)
        cards = {card: _read_cell(head, card, found) for card, found in cell.get("elsewhere", {}).items()}
        entry["draws"].append(own | ({"elsewhere": cards} if cards else {}))
    for lost in head["left_out"]:
        if lost["shots"] in rungs:
            told = rungs[lost["shots"]].setdefault("left_out", {})
            told[lost["arm"]] = "; ".join(filter(None, (told.get(lost["arm"]), lost["why"])))
    names, note = head["clips"][""]["names"], head["note"]
    made = [rung | summarise({"note": note} | rung, names=names) for rung in rungs.values()]
    comparison = {key: head[key] for key in ("task", "created", "note")} | {"settings": head["settings"]}
    comparison |= {"shots": list(rungs), "rungs": made}
    comparison["rungs_left_out"] = [lost for lost in head["left_out"] if lost["shots"] not in rungs]
    return comparison | {key: made[-1][key] for key in ("arms", "pairs", "verdict", "table", "sentence")}


def _cell(clips: dict[str, Any], card: str, cell: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What a cell said, and its metrics from scores; all cells of a card must have the same clips."""
    seen = read_outcomes([cell], names)
    if card not in clips:
        entry = {"names": list(names), "ids": [clip for clip, _, _ in seen.keys], "labels": seen.gold.tolist()}
        clips[card] = seen.keys, entry | {"groups": seen.groups.tolist()}
    assert seen.keys == clips[card][0], f"the cells of '{card or 'the task'}' have other test clips"
    metrics = {key: cell["metrics"][key] for key in SCORED if cell["metrics"].get(key) is not None}
    return {"said": seen.said[0].tolist(), "metrics": metrics}


def _read_cell(head: dict[str, Any], card: str, cell: dict[str, Any]) -> dict[str, Any]:
    clips = head["clips"][card]
    said, gold = np.array(cell["said"]), np.array(clips["labels"])
    metrics = dict.fromkeys(SCORED) | cell["metrics"] | index_metrics(gold, said, clips["names"])
    return {"said": cell["said"], "metrics": metrics} | ({"clips": _clips(head, card)} if card else {})


def _clips(head: dict[str, Any], card: str) -> dict[str, list[Any]]:
    clips = head["clips"][card]
    return {key: clips[key] for key in ("ids", "groups")} | {"labels": [clips["names"][i] for i in clips["labels"]]}


def _rungs(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    return comparison.get("rungs") or [comparison]


def merge_results(path: str | Path, files: Sequence[str | Path]) -> None:
    """Writes one file with the cells of several, e.g. of further draws; of equal cells the last counts.

    Raises:
        UserError: if the files are of other clips, classes or tasks, or an arm was made with other settings (recipes,
            setup, base, card: rbft_trl/compared.py). A file that does not say what it was made with gives a warning.
    """
    head: dict[str, Any] = {}
    heads: dict[str | Path, dict[str, Any]] = {}
    cells: dict[tuple[Any, str, int], dict[str, Any]] = {}
    for file in files:
        first, lines = _read(file)
        head = head or first
        for key in ("task", "clips", "labels"):
            if key in first and first[key] != head.setdefault(key, first[key]):
                raise UserError(
                    f"'{file}' has another '{key}' than '{files[0]}'; their draws are not of one comparison"
                )
        heads[file] = first
        cells |= {(line["shots"], line["arm"], line["draw"]): line for line in lines}
    head |= {"arms": _merged_arms(heads)}
    head |= {"settings": _merged_settings(heads)}
    lost = {(one["shots"], one["arm"], one["why"]): one for first in heads.values() for one in first["left_out"]}
    head["left_out"] = list(lost.values())
    order = list(head["arms"])
    ordered = sorted(cells.values(), key=lambda c: (c["shots"] or 0, order.index(c["arm"]), c["draw"]))
    _write(path, head, ordered)


def _merged_arms(heads: dict[str | Path, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Description and role of every arm; the role decides with which other arms it is corrected."""
    known: dict[str, dict[str, Any]] = {}
    for file, head in heads.items():
        for arm, entry in head["arms"].items():
            if (role := known.get(arm, entry).get("role")) != entry.get("role"):
                raise UserError(
                    f"arm '{arm}' has the role {entry.get('role')!r} in '{file}' and {role!r} in the files before it; "
                    "keep the files apart"
                )
            known[arm] = entry
    return known


def _write(path: str | Path, head: dict[str, Any], cells: list[dict[str, Any]]) -> None:
    text = _text([head, *cells])
    write_text(path, _text([{"digest": fingerprint(text)} | head]) + text.partition("\n")[2])


def _read(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Head and cells of a file as it was written: one that was cut, or edited by hand, must not give a table."""
    head, *cells = read_jsonl(path, by_user=True) or [{}]
    if head.get("format") != FORMAT:
        raise UserError(f"'{path}' is no results file of format {FORMAT}; make it again with rbft_trl/compare.py")
    if head.pop("digest", None) != fingerprint(_text([head, *cells])):
        raise UserError(
            f"'{path}' is not as it was written: its head or one of its {len(cells)} cells has been changed, added or "
            "lost; take it from where it was made, or make it again with rbft_trl/compare.py"
        )
    return head, cells


def _text(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)


def _merged_settings(heads: dict[str | Path, dict[str, Any]]) -> dict[str, str]:
    """Of all files; none if one does not say what it was made with, since then it is not known of the whole."""
    known: dict[str, str] = {}
    for file, head in heads.items():
        for part, found in head["settings"].items():
            if known.setdefault(part, found) != found:
                what = f"arm '{part}' was" if part else "base, card, evaluation or trials were"
                raise UserError(
                    f"{what} set otherwise in '{file}' than in the files before it; run its draws again with the same "
                    "settings, or keep the files apart"
                )
    if unknown := [file for file, head in heads.items() if not head["settings"]]:
        warnings.warn(f"'{unknown[0]}' does not say with which settings it was made", stacklevel=3)
        return {}
    return known
