"""The review sheet as a table: rationales with their verdicts out, what a person decided back in.

Input: rows of rationales.jsonl, a CSV. Output: the CSV, or the same rows with the decisions in them.
"""

import csv
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rbft_trl.data.tables import text_of
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError, nearest, quoted

Sample = dict[str, Any]
COLUMNS = ("id", "sample", "video", "label", "verdict", "reason", "decision", "text")
NEEDED = ("id", "sample", "label", "decision", "text")
SHOWN = ("video", "verdict", "reason")  # for the person alone
DECISIONS = ("", "keep", "drop")
# A spreadsheet runs what begins like this; an apostrophe before it makes it text, and is taken off again.
FORMULA = re.compile(r"'*[=+\-@\t\r]")


def to_csv(samples: Sequence[Sample]) -> str:
    """The sheet, `decision` left empty for the person."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for sample in samples:
        cells = [_cell(sample, key) for key in COLUMNS]
        writer.writerow([f"'{cell}" if FORMULA.match(cell) else cell for cell in cells])
    return stream.getvalue()


def read_decisions(path: Path) -> list[tuple[str, dict[str, str]]]:
    """The rows of a corrected sheet, with the place of each for messages.

    Comma, semicolon or tab, UTF-8 or UTF-16: what spreadsheets write.

    Raises:
        UserError: naming the line and the way out.
    """
    if not path.is_file():
        raise UserError(f"the sheet '{path}' does not exist; name the CSV that was saved")
    text = text_of(path)
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    rows = []
    try:
        names = [name.strip() for name in next(reader, [])]
        for missing in (name for name in NEEDED if name not in names):
            raise UserError(
                f"{path}:1: the column '{missing}' is missing{nearest(missing, names)}; keep the sheet's header"
            )
        for cells in reader:
            place = f"{path}:{reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                raise UserError(f"{place}: {len(cells)} cells, but the header has {len(names)}; quote commas in cells")
            plain = [cell[1:] if FORMULA.match(cell) and cell.startswith("'") else cell for cell in cells]
            rows.append((place, dict(zip(names, plain, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}; correct the quotes") from error
    return rows


def apply_decisions(
    samples: Sequence[Sample], decisions: Sequence[tuple[str, dict[str, str]]], card: TaskCard
) -> list[Sample]:
    """The rows with what a person decided; those without a decision stay as they are.

    A decision wins over the checks, and the row is marked `reviewed`. What is kept must be something to train on:
    reasoning, and for a labelled clip a final line with its label; any text where it answers a prompt of its own.
    Columns that are only shown are not read: where one differs (it was edited, or the rationales were checked anew
    since), a warning says so.

    Raises:
        UserError: for an unknown or repeated row, another label, a word that is no decision, an edit without a
            decision, or a kept text that cannot be trained on.
    """
    made = {(sample["id"], str(sample.get("sample", 0))): dict(sample) for sample in samples}
    seen: dict[tuple[str, str], str] = {}
    changed: list[tuple[str, str, str]] = []
    for place, row in decisions:
        key = (row["id"], row["sample"].strip())
        if key not in made:
            ids = [clip for clip, _ in made]
            raise UserError(
                f"{place}: there is no rationale of clip '{key[0]}', sample {key[1]!r}{nearest(key[0], ids)}; "
                "keep the ids as they were (a spreadsheet may have cut leading zeros: import the column as text)"
            )
        if key in seen:
            raise UserError(f"{place}: clip '{key[0]}', sample {key[1]} stands at {seen[key]} too; remove one")
        seen[key] = place
        shown = {name: _cell(made[key], name).strip() for name in SHOWN if name in row}
        changed += [(place, name, row[name]) for name, cell in shown.items() if row[name].strip() != cell]
        made[key] = _decided(made[key], row, card, place)
    if changed:
        place, name, value = changed[0]
        warnings.warn(
            f"{place}: '{name}' is '{value}' and was another ({len(changed)} such cells), but of this sheet only "
            f"{', '.join(NEEDED)} are read; to change a verdict, write keep or drop as its decision",
            stacklevel=2,
        )
    return list(made.values())


def _cell(sample: Sample, key: str) -> str:
    """What the sheet shows of a row."""
    return str(sample.get(key) if sample.get(key) is not None else "")


def _decided(sample: Sample, row: dict[str, str], card: TaskCard, place: str) -> Sample:
    label, decision = sample["label"], row["decision"].strip().casefold()
    if row["label"] != (label or ""):
        raise UserError(
            f"{place}: the label of clip '{sample['id']}' is '{row['label']}' but was '{label or ''}'; labels are "
            "corrected in the data, not here"
        )
    if decision not in DECISIONS:
        raise UserError(
            f"{place}: the decision '{row['decision']}' is none of {quoted(DECISIONS[1:])}, or an empty cell"
        )
    text = _lines(row["text"])
    edited = text != _lines(sample["text"])
    if not decision:
        if edited:
            raise UserError(
                f"{place}: the text of clip '{sample['id']}' was changed without a decision; write keep or drop"
            )
        return sample
    if decision == "drop":
        return sample | {"verdict": "dropped", "reason": "reviewed", "reviewed": True}
    own = sample.get("prompt") is not None  # a task of its own, as in stage 1
    if not (text if own else card.without_final_line(text)).strip():
        raise UserError(f"{place}: clip '{sample['id']}' is kept without any reasoning; write some, or drop it")
    if label is not None and not own and (why := card.objection(text, label)):
        wrong = "has final lines that disagree" if why == "several" else "has another last line"
        raise UserError(
            f"{place}: clip '{sample['id']}' is kept but {wrong}; write '{card.final_line(label)}' alone, or drop it"
        )
    verdict = "unlabelled" if label is None else "kept"
    kept = {"text": text} if edited else {}
    return sample | kept | {"verdict": verdict, "reason": None, "reviewed": True}


def _lines(text: str) -> str:
    """Spreadsheets write other line ends, and none at the end."""
    return "\n".join(text.splitlines()).strip()
