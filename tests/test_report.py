"""The report: everything from models and users is escaped, nothing is loaded from outside, every part is there."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rbft_trl.data.jsonl import read_jsonl, write_jsonl
from rbft_trl.evidence.charts import LEFT, RIGHT, UNTRAINED, budget_views, chart, ladder_views
from rbft_trl.evidence.metrics import compute_metrics
from rbft_trl.evidence.page import encode_strip
from rbft_trl.evidence.report import build_report, most_confused
from rbft_trl.evidence.stats import summarise
from rbft_trl.evidence.table import left_out_rows

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
NOTE = "Synthetic clips & nothing else."


class Page(HTMLParser):
    """Collects tags, attributes and text; void tags are not pushed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "path", "line", "rect", "circle", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data if not self.open or self.open[-1] != "style" else ""


def predictions(names: list[str], right: float, *, n: int = 60) -> list[dict[str, Any]]:
    rows = []
    for i in range(n):
        gold = names[i % len(names)]
        said = gold if i < right * n else names[(i + 1) % len(names)]
        scores = {name: 0.9 if name == said else 0.1 / (len(names) - 1) for name in names}
        rows.append(
            {"id": f"{i:03d}", "label": gold, "prediction": said, "scores": scores, "logprobs": {}, "seconds": 0.1}
        )
        rows[-1] |= {"group": str(i // 2), "generated": None, "generated_label": None, "error": None}
    rows[0] |= {"prediction": None, "scores": {}, "error": "unreadable"}
    return rows


def comparison(folder: Path, names: list[str], arms: dict[str, float], *, draws: int = 2) -> dict[str, Any]:
    entries = {}
    for number, (arm, right) in enumerate(arms.items()):
        cells = []
        for draw in range(draws):
            file = folder / f"{number}-{draw}.jsonl"
            write_jsonl(file, predictions(names, right - 0.05 * draw))
            metrics = compute_metrics(predictions(names, right - 0.05 * draw), names)
            cells.append(
                {"draw": draw, "predictions": str(file), "metrics": metrics, "rationales": None, "kept": None}
            )
            cells[-1] |= {"steps": 40, "presentations": 320, "seconds": 12.5, "validation_accuracy": 0.5}
            curve = [{"step": s, "loss": 2.0 / s} for s in (1, 10, 20, 30, 40)] + [{"step": 40, "train_runtime": 9.0}]
            cells[-1] |= {"curves": [*curve, {"step": 25, "loss": float("nan")}, {"step": 20, "eval_accuracy": 0.4}]}
        role = {"oracle": "oracle", "shuffled": "control"}.get(arm)
        entries[arm] = {"description": f"{arm} described", "role": role, "draws": cells}
    if "rbft" in entries:
        shares = {name: {"kept": 3, "total": 4, "share": 0.75} for name in [*names, "overall"]}
        shares["unlabelled"] = {"kept": 0, "total": 0, "share": None}
        for cell in entries["rbft"]["draws"]:
            cell |= {"kept": shares, "stage1_steps": 20}
    made = {"task": "home", "created": "2026-01-01T00:00:00+00:00", "note": NOTE, "arms": entries}
    return made | summarise(made, names=names)


def strip(**more: Any) -> dict[str, Any]:
    frames = np.random.default_rng(0).integers(0, 256, (10, 200, 300, 3), dtype=np.uint8)
    return {"id": "clip-7", "label": "run", "text": "A man\nruns.", "verdict": "kept", "frames": frames} | more


ARMS = {"direct": 0.5, "rbft": 0.7, "oracle": 0.8, "shuffled": 0.4}


def test_report_holds_every_part_and_loads_nothing(tmp_path: Path) -> None:
    made = json.loads(json.dumps(comparison(tmp_path, ["walk", "run", "fall"], ARMS)))  # as read from the file
    strips = [strip(), strip(label=None, verdict="unlabelled"), strip(verdict="dropped", reason="refusal", shown=True)]
    build_report(made, tmp_path / "new" / "report.html", strips=strips, note=NOTE)
    html = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not page.open
    kinds = [tag for tag, _ in page.tags]
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy and "script-src" not in policy and "img-src data:" in policy
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(kinds)
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,")
    words = re.sub(r"base64,[\w+/=]+|http-equiv|nano", "", html)  # pictures may hold any letters
    assert "url(" not in words and "@import" not in words and "http" not in words and "nan" not in words.lower()
    sentence = made["sentence"].removesuffix(NOTE).rstrip()
    assert page.text.count(sentence) == 1 and page.text.count(NOTE) == 1
    for expected in (*ARMS, "rbft described", "walk", "65.8 ± 3.5", "320", "60 test clips, 2 draws", "rbft − direct"):
        assert expected in page.text
    for expected in ("Learning curves", "Confusion matrices", "invalid", "dropped: refusal", "75 %", "A man\nruns."):
        assert expected in page.text
    assert kinds.count("polyline") == 8 and kinds.count("img") == 3 and kinds.count("details") == 5


def test_everything_from_users_and_models_is_escaped(tmp_path: Path) -> None:
    made = comparison(tmp_path, [f"run{EVIL}", "{{ 7 * 7 }}"], {f"arm{EVIL}": 0.5, "direct": 0.6})
    made |= {"task": f"task{EVIL}", "sentence": f"So{EVIL}.", "created": EVIL}
    made["arms"]["direct"]["description"] = EVIL
    strips = [strip(id=EVIL, label=EVIL, text=f"</pre>{EVIL}\ud800\x00 {{{{ 7 * 7 }}}}", verdict=EVIL, reason=EVIL)]
    build_report(made, tmp_path / "report.html", strips=strips, note=EVIL)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not page.open and "<script" not in html and "49" not in re.findall(r"<pre.*?</pre>", html, re.S)[0]
    assert next(a for tag, a in page.tags if tag == "img")["alt"] == f"frames of clip {EVIL}"
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for start in ("task", "arm", "run", "So", "</pre>"):
        assert f"{start}{EVIL}" in page.text


def test_a_comparison_without_training_or_rationales(tmp_path: Path) -> None:
    made = comparison(tmp_path, ["a", "b"], {"zero_shot": 0.5}, draws=1)
    for cell in made["arms"]["zero_shot"]["draws"]:
        cell |= {"steps": None, "presentations": None, "seconds": 0.0, "curves": []}
    made["left_out"] = {"rbft_rebuild": "draw 0: class 'a' has no kept rationale <b>"}
    build_report(made, tmp_path / "report.html", strips=[], note="")
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "Left out: rbft_rebuild - draw 0: class 'a' has no kept rationale <b>" in text
    assert "Learning curves" not in text and "Differences" not in text and "beside their frames" not in text
    assert "1 draw of labelled clips" in text and "±" in text and "None" not in text


def test_many_classes_become_a_list_of_confusions(tmp_path: Path) -> None:
    names = [f"class{i}" for i in range(40)]
    made = comparison(tmp_path, names, {"direct": 0.5})
    build_report(made, tmp_path / "report.html", strips=[], note="")
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "most frequent confusions" in text
    matrix = np.array([[5, 2, 1], [7, 9, 0]])
    assert most_confused(["a", "b"], matrix) == [("b", "a", 7), ("a", "b", 2), ("a", "invalid", 1)]


def test_strip_is_a_picture_of_eight_frames() -> None:
    frames = np.zeros((15, 200, 300, 3), np.uint8)
    frames[-1] = 255
    with Image.open(io.BytesIO(base64.b64decode(encode_strip(frames)))) as picture:
        assert picture.size == (8 * 168 + 7 * 2, 112)
        assert picture.getpixel((0, 0)) == (0, 0, 0) and picture.getpixel((picture.width - 1, 50)) == (255, 255, 255)
    with Image.open(io.BytesIO(base64.b64decode(encode_strip(frames[:2, :56, :56])))) as picture:
        assert picture.size == (2 * 56 + 2, 56)
    with pytest.raises(AssertionError):
        encode_strip(frames.astype(float))


def test_chart_coordinates() -> None:
    made = chart([[(0, 0.0), (10, 2.0)], [(5, 1.0)]], last=10, highest=None, mark=5)
    assert made["lines"] == ["36.0,126.0 314.0,6.0"]
    assert made["dots"] == [("175.0", "66.0")] and made["mark"] == "175.0" and made["top"] == "2"


def summary(mean: float, *, flops: float | None = None, clips: float | None = 100) -> dict[str, Any]:
    made = {"accuracy": {"mean": mean}, "accuracy_interval": [mean - 0.1, mean + 0.1]}
    return {"summary": made | {"costs": {"presentations": clips, "flops": flops}}}


def test_what_is_left_out_of_any_rung_is_told() -> None:
    rungs = [{"shots": 2, "left_out": {"probe": "too few"}}, {"shots": 4, "left_out": {}}, {"shots": 8}]
    assert left_out_rows({}, rungs) == [("probe, 2 shots", "too few")]
    assert left_out_rows({}, rungs[:1]) == [("probe", "too few")]
    (row,) = left_out_rows({"rungs_left_out": [{"shots": 1, "arm": "rbft", "why": "draw 0"}]}, rungs[1:])
    assert row == ("1 shots", "without arm 'rbft' there is nothing to compare: draw 0")


def test_a_ladder_has_a_chart_per_arm() -> None:
    rungs = [
        {"shots": 2, "arms": {"direct": summary(0.3), "rbft": summary(0.4)}},
        {"shots": 4, "arms": {"direct": summary(0.5), "rbft": summary(0.6), "late": summary(0.5)}},
        {"shots": 8, "arms": {"direct": summary(0.7), "rbft": summary(0.8), "late": summary(0.7)}},
    ]
    direct, rbft, late = ladder_views(rungs)
    assert [c["caption"] for c in (direct, rbft, late)] == ["direct", "rbft", "late"]
    assert rbft["reference"] == direct["line"] and direct["reference"] == ""
    assert [text for _, text in rbft["ticks"]] == ["2", "4", "8"]
    assert rbft["ticks"][1][0] == f"{(LEFT + RIGHT) / 2:.1f}"
    assert (rbft["bottom"], rbft["top"]) == ("20 %", "90 %")
    assert rbft["spans"][2]["high"] == "10.0" and direct["spans"][0]["low"] == "122.0", "from one end to the other"
    heights = [float(point.split(",")[1]) for point in rbft["line"].split()]
    assert heights == sorted(heights, reverse=True) and len(late["spans"]) == 2
    assert ladder_views(rungs[:1]) == [] and ladder_views([{"shots": None, "arms": {}}] * 2) == []


def test_budgets_are_on_a_scale_of_factors() -> None:
    arms = {"a": summary(0.3, flops=1e12), "b": summary(0.4, flops=1e13), "c": summary(0.5, flops=1e14)}
    (chart,) = budget_views(arms | {"zero_shot": summary(0.2)})  # all were shown as many clips: nothing to draw
    xs = [float(s["x"]) for s in chart["spans"]]
    assert "FLOPs" in chart["caption"] and [s["number"] for s in chart["spans"]] == [1, 2, 3, 4]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2) and xs[3] == UNTRAINED < xs[0]
    assert [text for _, text in chart["ticks"]] == ["1 T", "100 T", "none"]
    assert budget_views({"a": summary(0.3), "b": summary(0.4)}) == []
    assert [s["x"] for s in budget_views({"a": summary(0.3, flops=1e12), "b": summary(0.4)})[0]["spans"]]


def test_everything_about_many_arms_is_shown(tmp_path: Path) -> None:
    made = many_arms(tmp_path, num_arms=5, num_classes=4)
    counts = {"rbft": {"n": 50, "same": 40, "other": 5, "none": 3, "bare": 2}}
    build_report(made, tmp_path / "report.html", strips=[], agreement=counts, note=NOTE)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    for expected in (
        "Could be taken as an answer",
        "Help to read the answer",
        "Train on no rationale",
        "of its own clip?",
    ):
        assert expected in page.text
    for expected in ("Labelled clips per class", "What accuracy costs", "Accuracy by class", "Is time used?"):
        assert expected in page.text
    for expected in (
        "On other clips: there",
        "On classes that were not trained: novel",
        "Left out: zero_shot - not evaluated there (only label scores can be asked for on another card)",
        "80 %",
        "67 to 89 %",
        "10 %",
        "no rationale",
        "4 %",
        "6 %",
    ):
        assert expected in page.text
    assert "None" not in page.text and "nan" not in page.text


def many_arms(folder: Path, *, num_arms: int, num_classes: int) -> dict[str, Any]:
    """A ladder of two rungs with many arms, and every diagnostic that a comparison can have."""
    names = [f"class number {i} with a name" for i in range(num_classes)]
    arms = {"zero_shot": 0.2, "direct": 0.5, "rbft": 0.6, "oracle": 0.8, "shuffled": 0.5}
    arms |= {f"arm_with_a_long_name_{i}": 0.4 + i / 100 for i in range(num_arms - 5)}
    rungs = []
    for shots in (2, 4):
        rung = {"shots": shots} | comparison(folder, names, {arm: right * shots / 4 for arm, right in arms.items()})
        for number, (arm, entry) in enumerate(rung["arms"].items()):
            for cell in entry["draws"]:
                cell |= {"shuffled_accuracy": 0.2, "tokens": 1e6 * (number + 1), "flops": 1e13 * (number + 1)}
                cell |= dict.fromkeys(("steps", "tokens", "flops"), None) if arm == "zero_shot" else {}
                there = {"predictions": cell["predictions"], "metrics": cell["metrics"]}
                if arm != "zero_shot":
                    cell["elsewhere"] = {"cards/there.yaml": there, "cards/novel.yaml": renamed(folder, cell, names)}
        rungs.append(rung | summarise(rung, names=names))
    return {key: rungs[-1][key] for key in ("task", "created", "note", "arms", "pairs", "sentence")} | {"rungs": rungs}


def renamed(folder: Path, cell: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The same answers on a card with other labels."""
    rows = [
        p
        | {key: p[key] and f"new {p[key]}" for key in ("label", "prediction")}
        | {"scores": {f"new {name}": score for name, score in p["scores"].items()}}
        for p in read_jsonl(cell["predictions"])
    ]
    file = folder / f"new {Path(cell['predictions']).name}"
    write_jsonl(file, rows)
    return {"predictions": str(file), "metrics": compute_metrics(rows, [f"new {name}" for name in names])}
