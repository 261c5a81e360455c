"""UCF101, HMDB51, Kinetics-400 and Something-Something v2: official lists of clips → a `Conversion`.

Input: the official files (docs/datasets.md names them and their source). Output: rows with their official split.
"""

import re
from pathlib import Path

from rbft_trl.data.converters.common import (
    Conversion,
    Given,
    Note,
    Row,
    class_names,
    noted,
    official,
    read_csv,
    read_json_file,
    read_lines,
    without_suffix,
)
from rbft_trl.errors import UserError

HELD_OUT = {"validation": 0.15}  # cut from train by source where no validation split is official
HMDB_TAGS = {"0": None, "1": "train", "2": "test"}
HMDB_SOURCE = re.compile(r"^(.+)_[fuhl]_(?:cm|nm)_np\d+_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+$")
KINETICS_SPLITS = {"train": "train", "val": "validation", "validate": "validation", "test": "test"}
SSV2_PREFIXES = ("", "something-something-v2-")  # the second in the first release
SSV2_WORDS = {
    "question": "What is done with the things in this clip?",
    "role": "You watch what hands do with everyday objects.",
    "aspects": ["hands", "objects", "direction of movement", "contact", "start and end state", "camera"],
}


def ucf101(given: Given) -> Conversion:
    """`classInd.txt`, `trainlistNN.txt` (path and class number) and `testlistNN.txt` (path); the folder is the class.

    `v_<Class>_gNN_cNN.avi`: clips of one group are cut from one video.
    """
    folder, source = given.annotations, "UCF101 (ucfTrainTestlist)"
    lines = [(place, line.split()) for place, line in read_lines(official(folder, "classInd.txt", source=source))]
    if bad := [place for place, words in lines if len(words) != 2 or not words[0].isdecimal()]:
        raise UserError(f"{bad[0]} is no 'number Class'; take the official classInd.txt")
    numbers = {words[0]: words[1] for _, words in lines}
    names = class_names(list(numbers.values()))
    rows, other, unknown = [], [], []
    lists = {s: official(folder, f"{s}list{given.fold:02d}.txt", source=source) for s in ("train", "test")}
    for split, path in lists.items():
        for place, line in read_lines(path):
            clip, *number = line.split(maxsplit=1)  # no class and no clip of this set has a blank in its name
            name, _, file = clip.partition("/")
            if name not in names:
                unknown.append(clip)
                continue
            if number and numbers.get(number[0].strip()) != name:
                other.append(clip)
            found = re.search(r"_(g\d+)_c\d+", file)
            group = f"{name}_{found[1]}" if found else without_suffix(clip)
            row = {"clip": clip, "also": [file], "label": names[name], "split": split, "group": group}
            rows.append(row | {"place": place})
    notes = noted("two_labels", other, "clips have another class by number than by folder", "the folder counts")
    notes += noted("unknown_class", unknown, "clips have a class that is not in classInd.txt", "they are left out")
    return Conversion(rows, dict.fromkeys(names.values()), notes, HELD_OUT, test=lists["test"])


def hmdb51(given: Given) -> Conversion:
    """`<class>_test_split<fold>.txt` with `<clip>.avi <tag>`: 1 is train, 2 is test, 0 is not used in this fold.

    `<source>_<class>_<body>_<camera>_np<people>_<view>_<quality>_<number>.avi`: one film gives clips of many classes.
    """
    folder, ending = given.annotations, f"_test_split{given.fold}.txt"
    files = sorted([*folder.glob(f"[!.]*{ending}"), *folder.glob(f"*/[!.]*{ending}")])
    if not files:
        raise UserError(
            f"'{folder}' holds no <class>{ending}, an official file of HMDB51 (testTrainMulti_7030_splits); name the "
            "folder that does with --annotations"
        )
    names = class_names([file.name.removesuffix(ending) for file in files])
    rows, unused, other = [], [], []
    for file, name in zip(files, names, strict=True):
        for place, line in read_lines(file):
            clip, _, tag = line.rpartition(" ")
            if tag not in HMDB_TAGS or not clip:
                raise UserError(f"{place} is no '<clip>.avi 0|1|2'; take the official file")
            clip = clip.strip()
            if (split := HMDB_TAGS[tag]) is None:
                unused.append(clip)
                continue
            found = HMDB_SOURCE.match(without_suffix(clip))
            if found and not found[1].endswith(f"_{name}"):
                other.append(clip)
            group = found[1].removesuffix(f"_{name}") if found else without_suffix(clip)
            row = {"clip": f"{name}/{clip}", "also": [clip], "label": names[name], "split": split, "group": group}
            rows.append(row | {"place": place})
    notes = noted("two_labels", other, "clips have another class in their name than in their list", "the list counts")
    notes += noted("not_in_fold", unused, "clips have tag 0", "this fold does not use them")
    return Conversion(rows, dict.fromkeys(names.values()), notes, HELD_OUT, test=files[0].parent / f"<class>{ending}")


def kinetics400(given: Given) -> Conversion:
    """`train.csv`, `val.csv` (or `validate.csv`) and `test.csv`: label, youtube_id, time_start, time_end, split.

    Files are `<id>_<start>_<end>.mp4` with six digits each. The first release of test.csv has no labels; then the
    validation clips are the test, as in most papers, and validation is cut from train.
    """
    folder, source = given.annotations, "Kinetics-400"
    rows = _kinetics_rows(official(folder, "train.csv", source=source), "train")
    held_out = official(folder, "val.csv", "validate.csv", source=source)
    test = official(folder, "test.csv", source=source, needed=False)
    rows += _kinetics_rows(held_out, "validation") + _kinetics_rows(test, "test")
    other = [row["clip"] for row in rows if row["said"] and KINETICS_SPLITS.get(row["said"]) != row["split"]]
    notes = noted("two_splits_said", other, "clips name another split than their file", "the file counts")
    names = class_names(sorted({row["label"] for row in rows if row["label"] and row["split"] == "train"}))
    if not any(row["label"] and row["split"] == "test" for row in rows):
        rows, told = _validation_is_test(rows, "test.csv")
        notes, test = notes + told, held_out
    rows, unknown = _known(rows, names, "have no label, or one that no training clip has")
    shares = {} if any(row["split"] == "validation" for row in rows) else HELD_OUT
    return Conversion(rows, dict.fromkeys(names.values()), notes + unknown, shares, test=test)


def _kinetics_rows(path: Path | None, split: str) -> list[Row]:
    rows = []
    for place, raw in read_csv(path, ("youtube_id", "time_start", "time_end")) if path else ():
        start, end = (_whole(raw[name], name, place) for name in ("time_start", "time_end"))
        clip = f"{raw['youtube_id']}_{start:06d}_{end:06d}"
        row = {"clip": clip, "also": [raw["youtube_id"]], "label": raw.get("label") or None, "split": split}
        rows.append(row | {"said": raw.get("split"), "group": raw["youtube_id"], "place": place})
    return rows


def ssv2(given: Given) -> Conversion:
    """`labels.json` (label → number), `train.json`, `validation.json` (id, label, template, placeholders) and
    `test-answers.csv` (`id;label`), with or without the prefix of the first release.

    Without test-answers.csv the validation clips are the test, as in most papers, and validation is cut from train.
    The official files name no source, so each clip is a source of its own. A label is its own definition.
    """
    files = {}
    for name in ("labels.json", "train.json", "validation.json", "test-answers.csv"):
        names = [f"{prefix}{name}" for prefix in SSV2_PREFIXES]
        files[name] = official(
            given.annotations, *names, source="Something-Something v2", needed=name != "test-answers.csv"
        )
    numbers = read_json_file(files["labels.json"], dict)
    if bad := [name for name, number in numbers.items() if not str(number).isdecimal()]:
        raise UserError(f"'{files['labels.json']}' gives '{bad[0]}' no number; take the official file")
    names = sorted(numbers, key=lambda name: int(numbers[name]))
    train, filled = _ssv2_rows(files["train.json"], "train")
    validation, more = _ssv2_rows(files["validation.json"], "validation")
    rows, notes = train + validation, []
    if answers := files["test-answers.csv"]:
        for place, line in read_lines(answers):
            clip, _, label = line.partition(";")
            rows.append({"clip": clip, "label": label, "split": "test", "place": place})
    else:
        rows, notes = _validation_is_test(rows, "test-answers.csv")
    what = "clips have a label that is not their template filled in"
    notes += noted("two_labels", filled + more, what, "the template counts")
    rows, unknown = _known(rows, dict(zip(names, names, strict=True)), "have a template that is not in labels.json")
    definitions = {name: name[:1].lower() + name[1:] for name in names}
    test = answers or files["validation.json"]
    return Conversion(rows, definitions, notes + unknown, {} if answers else HELD_OUT, SSV2_WORDS, test)


def _ssv2_rows(path: Path, split: str) -> tuple[list[Row], list[str]]:
    """Rows, and the clips whose two label fields disagree."""
    rows, other = [], []
    for number, item in enumerate(read_json_file(path, list), start=1):
        place = f"{path}: item {number}"
        if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("id", "template")):
            raise UserError(f"{place} lacks 'id' or 'template'; take the official file")
        label = item["template"].replace("[", "").replace("]", "")
        rows.append({"clip": item["id"], "label": label, "split": split, "place": place})
        if not isinstance(item.get("placeholders") or [], list):
            raise UserError(f"{place}: 'placeholders' is no list; take the official file")
        things = iter(item.get("placeholders") or [])
        filled = re.sub(r"\[[^\]]*\]", lambda found, things=things: str(next(things, found[0])), item["template"])
        if item.get("label") and str(item["label"]).casefold() != filled.casefold():
            other.append(item["id"])
    return rows, other


def _known(rows: list[Row], names: dict[str, str], what: str) -> tuple[list[Row], list[Note]]:
    """Rows with our class names, and a note of the others."""
    unknown = [row["clip"] for row in rows if row["label"] not in names]
    kept = [row | {"label": names[row["label"]]} for row in rows if row["label"] in names]
    return kept, noted("unknown_class", unknown, f"clips {what}", "they are left out")


def _validation_is_test(rows: list[Row], answers: str) -> tuple[list[Row], list[Note]]:
    """Without the labels of the test: no row of it, validation in its place, and a note."""
    moved = {"train": "train", "validation": "test"}
    message = f"there are no labels of the test clips ({answers}); the official validation clips are the test"
    note = Note("validation_is_test", message, [row["clip"] for row in rows if row["split"] == "validation"])
    return [row | {"split": moved[row["split"]]} for row in rows if row["split"] in moved], [note]


def _whole(text: str, name: str, place: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{place}: '{name}' is '{text}' but must be whole seconds; take the official file") from error
