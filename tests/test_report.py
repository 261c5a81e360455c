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

from rbft_trl.data.jsonl import write_jsonl
from rbft_trl.evidence.metrics import compute_metrics
from rbft_trl.evidence.report import build_report, chart, encode_strip, most_confused
from rbft_trl.evidence.stats import summarise

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
        entries[arm] = {"description": f"{arm} described", "draws": cells}
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
    assert kinds.count("polyline") == 8 and kinds.count("img") == 3 and kinds.count("details") == 4


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
    build_report(made, tmp_path / "report.html", strips=[], note="")
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
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
