"""What every arm said of every test clip, as arrays: the one form from which all statistics of a comparison are made.

Input: the cells of an arm, with a predictions.jsonl each or with class indices inline (evidence/results.py).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rbft_trl.data.jsonl import read_json, read_jsonl
from rbft_trl.errors import UserError
from rbft_trl.evidence.metrics import per_class

Prediction = dict[str, Any]


@dataclass(frozen=True)
class Outcomes:
    """One arm on all its draws; all draws share one test set, in one order.

    Args:
        keys (`tuple`): Id, gold label and group of each of the N clips.
        names (`tuple[str]`): The C classes.
        gold (`np.ndarray` int64 `[N]`): Class indices.
        said (`np.ndarray` int64 `[D, N]`): Predicted class indices; C where there is no valid prediction.
        groups (`np.ndarray` int64 `[N]`): Index of each clip's source, 0 to G - 1.
        draws (`tuple[int]`): Number of each of the D draws; equal numbers are the same labelled clips.
    """

    keys: tuple[tuple[str, str, str], ...]
    names: tuple[str, ...]
    gold: np.ndarray
    said: np.ndarray
    groups: np.ndarray
    draws: tuple[int, ...]

    def on(self, draws: Sequence[int]) -> "Outcomes":
        """The same arm on some of its draws, in their order."""
        return replace(self, said=self.said[[self.draws.index(draw) for draw in draws]], draws=tuple(draws))

    @property
    def right(self) -> np.ndarray:
        """Right or wrong, bool `[D, N]`."""
        return self.said == self.gold

    def macro_f1(self) -> list[float]:
        """Macro-F1 per draw, over all classes."""
        return [per_class(self.gold, said, self.names)["macro_f1"] for said in self.said]


def read_predictions(folder: str | Path, *, ids: Iterable[str] | None = None) -> list[Prediction]:
    """The predictions of a finished evaluation.

    Args:
        folder (`Path`): Holds predictions.jsonl and metrics.json.
        ids (`Iterable[str]`, *optional*): The clips that must be there; left out: as many as metrics.json tells.

    Raises:
        UserError: if a file is damaged, or clips are missing or stand twice.
    """
    file, way_out = Path(folder) / "predictions.jsonl", f"delete '{folder}' and evaluate again"
    rows, metrics = read_jsonl(file), read_json(Path(folder) / "metrics.json")
    count = metrics.get("n")
    for row in rows:
        if lacking := [key for key in ("id", "label", "prediction", "group") if key not in row]:
            raise UserError(f"'{file}' holds a row without '{lacking[0]}'; {way_out}")
    seen = {str(row["id"]) for row in rows}
    if len(rows) != count or len(seen) != count:
        raise UserError(
            f"'{file}' holds {len(rows)} rows of {len(seen)} clips, but metrics.json there is of {count}; {way_out}"
        )
    if "confusion" in metrics and not _agree(
        rows, metrics["confusion"]
    ):  # of open answers the card says what is right
        raise UserError(
            f"'{file}' and the confusion matrix in metrics.json there tell of different answers; {way_out}"
        )
    if ids is not None and (other := sorted(seen ^ set(ids))):
        raise UserError(f"'{file}' and the data of the recipe differ in clip '{other[0]}'; {way_out}")
    return rows


def _agree(rows: list[Prediction], confusion: Any) -> bool:
    """Whether predictions are those of which a confusion matrix was counted; its last column is of invalid ones."""
    labels = confusion.get("labels") if isinstance(confusion, dict) else None
    if not isinstance(labels, list):
        return False
    counts = Counter((row["label"], row["prediction"] if row["prediction"] in labels else None) for row in rows)
    counted = [[counts[gold, said] for said in (*labels, None)] for gold in labels]
    return sum(map(sum, counted)) == len(rows) and counted == confusion.get("matrix")


def shared_draws(*seen: Outcomes) -> list[int]:
    """The draws that all arms have, in the order of the first; what is drawn differs from one to the next, so only
    arms on the same draw are a pair."""
    return [draw for draw in seen[0].draws if all(draw in other.draws for other in seen[1:])]


def from_predictions(
    draws: Sequence[Sequence[Prediction]], names: Sequence[str], *, numbers: Sequence[int] | None = None
) -> Outcomes:
    """From rows of predictions.jsonl, one list per draw, sorted by id here.

    Args:
        draws (`list[list[dict]]`): Rows with `id, label, prediction, group`.
        names (`list[str]`): Every class of the card.
        numbers (`list[int]`, *optional*): Of the draws; left out: 0, 1, ...
    """
    assert draws and all(draws), "no predictions"
    sorted_draws = [sorted(draw, key=lambda p: p["id"]) for draw in draws]
    keys = [tuple((p["id"], p["label"], str(p["group"])) for p in draw) for draw in sorted_draws]
    assert all(other == keys[0] for other in keys), "the draws do not share one test set"
    assert len({clip for clip, _, _ in keys[0]}) == len(keys[0]), "a clip stands twice in a draw"
    place = {name: index for index, name in enumerate(names)}
    said = np.array([[place.get(p["prediction"], len(names)) for p in draw] for draw in sorted_draws])
    return _build(keys[0], names, said, [group for _, _, group in keys[0]], numbers or range(len(draws)))


def read_outcomes(
    draws: Sequence[dict[str, Any]], names: Sequence[str], *, clips: dict[str, list[Any]] | None = None
) -> Outcomes:
    """From the cells of an arm.

    Args:
        draws (`list[dict]`): Cells, each with its number `draw`, and `predictions` (a file) or, if `clips` is given,
            `said` (class indices).
        names (`list[str]`): Every class of the card.
        clips (`dict`, *optional*): `ids`, `labels` and `groups` of the test clips, in the order of `said`.
    """
    numbers = [draw["draw"] for draw in draws]
    if clips is None:
        return from_predictions([read_jsonl(draw["predictions"]) for draw in draws], names, numbers=numbers)
    keys = tuple(zip(clips["ids"], clips["labels"], map(str, clips["groups"]), strict=True))
    said = np.array([draw["said"] for draw in draws], np.int64)
    assert said.shape == (len(draws), len(keys)), (said.shape, len(keys))
    return _build(keys, names, said, clips["groups"], numbers)


def _build(
    keys: tuple[tuple[str, str, str], ...],
    names: Sequence[str],
    said: np.ndarray,
    groups: Sequence[Any],
    numbers: Sequence[int],
) -> Outcomes:
    assert len(set(numbers)) == len(said), f"draws {numbers} of {len(said)} cells"
    place = {name: index for index, name in enumerate(names)}
    for clip, label, _ in keys:
        assert label in place, f"gold label {label!r} of {clip!r} is not in {list(names)}"
    gold = np.array([place[label] for _, label, _ in keys])
    return Outcomes(keys, tuple(names), gold, said, np.unique(groups, return_inverse=True)[1], tuple(numbers))
