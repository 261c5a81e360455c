"""Each known data set in small: its official files word for word in layout and columns, and real clips beside them.

A builder makes `annotations/` and `clips/` below a folder; what a converter must make of them is in test_convert.py.
"""

import csv
import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rbft_trl import convert
from rbft_trl.data.rows import load_rows
from rbft_trl.data.task import TaskCard

Make = Callable[..., Path]
FRAMES = 8
UCF = ("ApplyEyeMakeup", "HandstandPushups", "TaiChi", "YoYo")
HMDB = ("brush_hair", "climb", "climb_stairs")
HMDB_TAIL = "u_nm_np1_ba_goo"
KINETICS = ("abseiling", "petting animal (not cat)", "massaging person's head")
SSV2 = ("Holding [something]", "Putting [something] onto [something]")
FINEDIVING = {"107B": 3, "5253B": 3}
SMARTHOME = ("Title", "Category", "{}", "Video Description", "Reasoning behind Normality/Anomalies")
HATE = ("Video_ID", "Majority_Voting", "Label", "Target_Victim", "Component", "Duration")


class Builder:
    """Writes files and clips; every clip differs from every other."""

    def __init__(self, folder: Path, make: Make) -> None:
        self.annotations, self.clips, self.make, self.count = folder / "annotations", folder / "clips", make, 0

    def text(self, name: str, text: str) -> None:
        path = self.annotations / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())

    def table(self, name: str, rows: Iterable[Iterable[object]], *, delimiter: str = ",", end: str = "\n") -> None:
        path = self.annotations / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8-sig" if delimiter == "," else "utf-8") as stream:
            csv.writer(stream, delimiter=delimiter, lineterminator=end).writerows(rows)

    def clip(self, name: str, **options: object) -> None:
        self.count += 1
        self.make(self.clips / name, **{"frames": FRAMES, "first": 31 * self.count} | options)


def ucf101(folder: Path, make: Make) -> Builder:
    """trainlist01 has a path and a number, testlist01 a path; CRLF, as in the official zip; class folders of avi."""
    b = Builder(folder, make)
    lists: dict[str, list[str]] = {"trainlist01": [], "testlist01": []}
    for number, name in enumerate(UCF, start=1):
        file = name.replace("Handstand", "HandStand")  # the official files differ so from their folder
        for group in (*range(8, 11), 1):
            clip = f"{name}/v_{file}_g{group:02d}_c01.avi"
            lists["testlist01" if group == 1 else "trainlist01"].append(clip if group == 1 else f"{clip} {number}")
            b.clip(clip, codec="mpeg4")
    b.text("classInd.txt", "".join(f"{i} {name}\r\n" for i, name in enumerate(UCF, start=1)))
    for name, lines in lists.items():
        b.text(f"{name}.txt", "\r\n".join([*lines, ""]))
    return b


def hmdb51(folder: Path, make: Make) -> Builder:
    """One list per class and fold with the tags 0, 1, 2 and a space at the end; one film gives two classes."""
    b = Builder(folder, make)
    for name in HMDB:
        lines = []
        for source, tag in (("April_09", 1), ("BIG_FISH", 1), ("Jumper", 1), ("Alpha_Dog", 2), ("Gattaca", 0)):
            if name == "climb" and tag:  # these films are in the other split here
                source, tag = {"April_09": ("Alpha_Dog", 1)}.get(source, (f"{source}_2", tag))
            clip = f"{source}_{name}_{HMDB_TAIL}_{tag}.avi"
            lines.append(f"{clip} {tag} ")
            b.clip(f"{name}/{clip}", codec="mpeg4")
        b.text(f"testTrainMulti_7030_splits/{name}_test_split1.txt", "\n".join([*lines, ""]))
    return b


def kinetics400(folder: Path, make: Make) -> Builder:
    """Quoted labels with blanks, six-digit seconds in file names, flat folders per split as CVDF extracts them."""
    b = Builder(folder, make)
    head = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc")
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        rows = []
        for i, name in enumerate(KINETICS):
            for j in range(count):
                video, start = f"-{split}_{i}xY{j}A"[:11], 10 * j + 7
                rows.append((name, video, start, start + 10, split, 0))
                b.clip(f"{split}/{video}_{start:06d}_{start + 10:06d}.mp4")
        b.table(f"{split}.csv", [head, *rows])
    return b


def ssv2(folder: Path, make: Make) -> Builder:
    """Numbers as text, templates with brackets, answers with a semicolon and no header, webm files."""
    b = Builder(folder, make)
    lists: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    said, number = [], 100
    for split, count in (("train", 3), ("validation", 1), ("test", 1)):
        for template in SSV2:
            for _ in range(count):
                number += 1
                things = ["a cup", "[the] table"][: template.count("[")]
                filled = template
                for thing in things:
                    filled = filled.replace("[something]", thing, 1)
                item = {"id": str(number), "label": filled.lower(), "template": template, "placeholders": things}
                lists[split].append({"id": str(number)} if split == "test" else item)
                said += [f"{number};{template.replace('[', '').replace(']', '')}"] if split == "test" else []
                b.clip(f"20bn-something-something-v2/{number}.webm", codec="libvpx-vp9")
    for split, items in lists.items():
        b.text(f"labels/{split}.json", json.dumps(items))
    names = [template.replace("[", "").replace("]", "") for template in SSV2]
    b.text("labels/labels.json", json.dumps({name: str(i) for i, name in enumerate(names)}))
    b.text("labels/test-answers.csv", "\n".join(said) + "\n")
    return b


def finediving(folder: Path, make: Make, *, trimmed: bool = True) -> Builder:
    """Three pickles with numpy in them; dives of one competition in both official splits."""
    b = Builder(folder, make)
    coarse, fine, splits = {}, {}, {"train": [], "test": []}
    for video in range(5):
        for instance, number in enumerate(FINEDIVING):
            source, first = f"FINADivingWorldCup2021_Men3m_final_r{video}", 1 + 30 * instance
            key = (source, instance)
            coarse[key] = {"action_type": number.lower(), "start_frame": np.int64(first), "end_frame": first + 23}
            coarse[key] |= {"dive_score": 81.6, "difficulty": np.float64(3.2), "judge_scores": [8.5, 8.0]}
            fine[key] = {"action_type": number.lower(), "sub-action_types": {0: "Forward"}}
            fine[key]["frames_labels"] = np.array([0, 0, 1])
            splits["test" if video == 0 or (video, instance) == (1, 1) else "train"].append(key)
            if trimmed:
                b.clip(f"{source}/{instance}.mp4")
        if not trimmed:
            b.clip(f"{source}.mp4", frames=60, fps=24)
    b.annotations.mkdir(parents=True)
    for name, value in (("FineDiving_coarse_annotation", coarse), ("FineDiving_fine-grained_annotation", fine),
                        ("train_split", splits["train"]), ("test_split", splits["test"])):  # fmt: skip
        (b.annotations / f"{name}.pkl").write_bytes(pickle.dumps(value, protocol=2))
    return b


def smarthome(folder: Path, make: Make) -> Builder:
    """The repository's folders: Videos/ and Code/ with the same table under two names of the label, with a BOM."""
    b = Builder(folder, make)
    tags = ["Normal", "Abnormal", "Vague Abnormal"] * 6
    rows = [
        (f"smartbench_{i:04d}", "Security, Wildlife", tag, f'A "cat" {i}, \nwalks.', "It is expected.")
        for i, tag in enumerate(tags, start=1)
    ]
    for name, tag in (("Videos/Video_Annotation.csv", "Anomaly Tag"), ("Code/Annotation_vad_1203.csv", "Label")):
        b.table(name, [[column.format(tag) for column in SMARTHOME], *rows])
    urls = [(row[0], f"https://www.youtube.com/shorts/l3qobJDgN{i // 2:02d}") for i, row in enumerate(rows)]
    b.table("Videos/Video_url.csv", [("Title", "URL"), *urls[:-1], (urls[-1][0], "privacy url")])
    for row in rows:
        b.clip(f"{row[0]}.mp4")
    return b


def multihateclip(folder: Path, make: Make, *, part: str = "English") -> Builder:
    """Tab-separated with CRLF, lists as text in cells, a folder per clip; text.json as the authors have it."""
    b = Builder(folder, make)
    texts = {}
    names = {"Normal": "正常的", "Offensive": "冒犯的", "Hateful": "仇恨的"} if part == "Chinese" else {}
    for split, count in (("train", 2), ("valid", 1), ("test", 1)):
        rows = []
        for label in ("Normal", "Offensive", "Hateful"):
            for i in range(count):
                clip = f"-{split}{label[:4]}{i}"
                rows.append((clip, label, str([label, label]), "[]", "[]", "[(0, 10)]"))
                title = f'<em class="keyword">A</em> &amp; {label}'
                texts[clip] = {"title": title, "transcript": "so it\n goes", "label": names.get(label, label)}
                b.clip(f"{clip}/{'video' if part == 'Chinese' else 'What a title!'}.mp4")
        b.table(f"{part}_data/annotation/{split}.tsv", [HATE, *rows], delimiter="\t", end="\r\n")
    b.text(f"{part}_data/text.json", json.dumps(texts))
    return b


BUILDERS = {
    "smarthome": smarthome,
    "multihateclip_en": multihateclip,
    "multihateclip_zh": lambda folder, make: multihateclip(folder, make, part="Chinese"),
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "kinetics400": kinetics400,
    "ssv2": ssv2,
    "finediving": finediving,
}


def convert_small(name: str, b: Builder, out: Path, *more: str) -> dict[str, Any]:
    """Runs the entry on what a builder made."""
    folders = ["--annotations", str(b.annotations), "--clips", str(b.clips)]
    return convert.main([name, *folders, "--output", str(out), *more])


def copy_of(b: Builder, folder: Path) -> Builder:
    """The same clips, and annotations of its own to spoil."""
    copy = Builder(folder, b.make)
    copy.clips = b.clips
    for file in b.annotations.rglob("*.*"):
        (target := copy.annotations / file.relative_to(b.annotations)).parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return copy


def notes(report: dict[str, Any]) -> dict[str, list[str]]:
    return {note["kind"]: note["items"] for note in report["notes"]}


def rows_of(report: dict[str, Any], index: int = 0) -> list[dict[str, Any]]:
    """The rows of a card that was made."""
    return load_rows(TaskCard.from_yaml(report["cards"][index]["card"]))
