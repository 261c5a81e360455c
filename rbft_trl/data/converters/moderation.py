"""SmartHome-Bench and MultiHateClip: official tables → a `Conversion`.

Input: the official files (docs/datasets.md names them and their source). Output: rows, MultiHateClip's with a split.
"""

import ast
import html
import re
from collections import Counter
from typing import Any

from rbft_trl.data.converters.common import Conversion, Given, Row, noted, official, read_csv, read_json_file
from rbft_trl.errors import UserError

TAGS = {"normal": "normal", "abnormal": "abnormal", "vague abnormal": "abnormal"}
REASONING = "Reasoning behind Normality/Anomalies"
VIDEO_ID = re.compile(r"(?:v=|youtu\.be/|shorts/|embed/|live/)([\w-]{11})")
HATE = ("normal", "offensive", "hateful")
CHINESE = {"正常的": "normal", "冒犯的": "offensive", "仇恨的": "hateful"}  # as text.json of the Chinese part has them


def smarthome(given: Given) -> Conversion:
    """`Video_Annotation.csv` (Title, Category, Anomaly Tag, Video Description, reasoning), and where they lie beside
    it `Annotation_vad_1203.csv` (the same with `Label`) and `Video_url.csv` (Title, URL).

    Files are `<Title>.mp4`. "Vague Abnormal" counts as abnormal, as in the authors' own score over all videos. There
    is no official split. What people wrote becomes oracle texts.
    """
    folder, source = given.annotations, "SmartHome-Bench"
    path = official(folder, "Video_Annotation.csv", source=source)
    beside = official(folder, "Annotation_vad_1203.csv", source=source, needed=False)
    urls = official(folder, "Video_url.csv", source=source, needed=False)
    second = {raw["Title"]: raw["Label"] for _, raw in read_csv(beside, ("Title", "Label"))} if beside else {}
    found = {raw["Title"]: VIDEO_ID.search(raw["URL"]) for _, raw in read_csv(urls, ("Title", "URL"))} if urls else {}
    rows, vague, other = [], [], []
    for place, raw in read_csv(path, ("Title", "Anomaly Tag", "Video Description", REASONING)):
        title, tag = raw["Title"], raw["Anomaly Tag"]
        if tag.casefold() not in TAGS:
            raise UserError(f"{place}: the anomaly tag '{tag}' is none of {', '.join(TAGS)}; take the official file")
        vague += [title] if tag.casefold() == "vague abnormal" else []
        other += [title] if second.get(title, tag).casefold() != tag.casefold() else []
        row = {"clip": title, "label": TAGS[tag.casefold()], "split": None, "place": place}
        row["group"] = found[title][1] if found.get(title) else title
        words = f"{raw['Video Description']} {raw[REASONING]}".split()
        rows.append(row | {"description": " ".join(words)})
    notes = noted("vague", vague, "clips are tagged 'Vague Abnormal'", "they count as abnormal")
    what = f"clips have another label in {beside.name if beside else ''} than in {path.name}"
    notes += noted("two_labels", other, what, f"{path.name} counts")
    return Conversion(rows, {"normal": None, "abnormal": None}, notes, {"validation": 0.1, "test": 0.2})


def multihateclip_en(given: Given) -> Conversion:
    """The English part: `English_data/annotation/{train,valid,test}.tsv` and `English_data/text.json`."""
    return _multihateclip(given, "English_data")


def multihateclip_zh(given: Given) -> Conversion:
    """The Chinese part: `Chinese_data/annotation/{train,valid,test}.tsv` and `Chinese_data/text.json`."""
    return _multihateclip(given, "Chinese_data")


def _multihateclip(given: Given, part: str) -> Conversion:
    """Video_ID, Majority_Voting (the label) and Label (what each annotator said) per split; title and transcript.

    Files lie as `<id>/<any name>.mp4`, where the authors' script puts them, or as `<id>.mp4`. The `label` in text.json
    is no person's (some are the refusals of a language model): where it differs is counted, and it is never used.
    """
    source = f"MultiHateClip ({part})"
    folder = given.annotations if given.annotations.resolve().name == part else given.annotations / part
    if not folder.is_dir():
        raise UserError(f"'{given.annotations}' holds no {part}; name the folder that does with --annotations")
    texts = official(folder, "text.json", source=source, needed=False)
    said = read_json_file(texts, dict) if texts else {}
    rows, votes, machine = [], [], []
    for split, name in (("train", "train.tsv"), ("validation", "valid.tsv"), ("test", "test.tsv")):
        path = official(folder, name, source=source)
        for place, raw in read_csv(path, ("Video_ID", "Majority_Voting", "Label"), delimiter="\t"):
            clip, label = raw["Video_ID"], raw["Majority_Voting"].casefold()
            if label not in HATE:
                raise UserError(
                    f"{place}: Majority_Voting '{label}' is none of {', '.join(HATE)}; take the official file"
                )
            known = said[clip] if isinstance(said.get(clip), dict) else {}
            votes += [clip] if _contradict(raw["Label"], label) else []
            machine += [clip] if (other := _pre_label(known)) and other != label else []
            row = {"clip": clip, "also": [f"{clip}/*"], "label": label, "split": split, "group": clip, "place": place}
            rows.append(row | {"text": _text(known)})
    without = [row["clip"] for row in rows if row["text"] is None]
    notes = noted("no_text", without, "clips have no title and no transcript", "their prompts have none")
    notes += noted("votes", votes, "clips have votes of which most say another label", "Majority_Voting counts")
    what = "clips have another label in text.json, which is no person's"
    notes += noted("two_labels", machine, what, "Majority_Voting counts")
    return Conversion(rows, dict.fromkeys(HATE), notes, test=path)  # of the loop above, test.tsv is the last


def _contradict(votes: str, label: str) -> bool:
    """Whether one label has more votes than `label`; `Counter Narrative` is a kind of normal."""
    try:
        said = [str(vote).casefold() for vote in ast.literal_eval(votes)]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return True  # a cell that nobody can read backs no label
    counts = Counter("normal" if vote == "counter narrative" else vote for vote in said)
    return max(counts.values(), default=0) > counts[label]


def _pre_label(known: Row) -> str | None:
    label = str(known.get("label") or "").removeprefix("Output: ")
    label = CHINESE.get(label, label.casefold())
    return label if label in HATE else None


def _text(known: dict[str, Any]) -> str | None:
    """Title and transcript without the marks of the site's search."""
    parts = (str(known.get(key) or "") for key in ("title", "transcript"))
    text = " ".join(html.unescape(re.sub(r"</?em[^>]*>", "", part)) for part in parts)
    return " ".join(text.split()) or None
