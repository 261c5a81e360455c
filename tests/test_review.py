"""The review sheet: out, corrected in a spreadsheet or in the page, and back to stage 1; a slip is one sentence."""

import csv
import html
import io
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl import review
from rbft_trl.configs import DataArguments, ModelArguments, StageArguments
from rbft_trl.data.jsonl import read_json, read_jsonl, write_json, write_jsonl
from rbft_trl.errors import UserError
from rbft_trl.evidence.sheet import COLUMNS, FORMULA
from rbft_trl.stage_rows import training_rows
from rbft_trl.start import open_task
from tests.browser import headless, needs_browser
from tests.helpers import REPOSITORY
from tests.test_report import EVIL

ODD = '=HYPERLINK("http://x.y", "go"); a, "b"\none small thing \u2028 moves <b>left</b>'


@pytest.fixture
def file(toy_set: tuple[Path, Path], tmp_path: Path) -> Path:
    """Two rationales per training clip: one kept, one dropped; the pool unlabelled; odd texts among them."""
    lines = (toy_set[1] / "clips.csv").read_text().splitlines()[1:]
    rows = []
    for number, (clip, video, label, split, _) in enumerate(line.split(",") for line in lines):
        if split != "train":
            continue
        for sample in range(2):
            text = [ODD, EVIL, "'=one small thing moves", "one thing moves"][number % 4]
            text += f"\nClassification: {label}" if label and sample == 0 else ""
            reason = "no_label" if label and sample else None
            verdict = "dropped" if reason else "kept" if label else "unlabelled"
            row = {"id": clip, "video": video, "label": label or None, "sample": sample, "shown": False, "text": text}
            rows.append(row | {"prompt_fingerprint": None, "verdict": verdict, "reason": reason})
    write_jsonl(tmp_path / "r.jsonl", rows)
    frames = {"num_frames": 8, "min_pixels": 3136, "max_pixels": 3136}
    write_json(tmp_path / "r.summary.json", {"frames": frames, "kept": {}, "checks": "label_match"})
    return tmp_path / "r.jsonl"


def made(file: Path, card: Path) -> Path:
    review.main([str(file), "--task", str(card), "--output", str(file.parent / "sheet")])
    return file.parent / "sheet"


def table(sheet: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((sheet / "review.csv").read_text(encoding="utf-8"), newline="")))


def back(
    file: Path, rows: list[dict[str, str]], *, delimiter: str = ",", encoding: str = "utf-8"
) -> list[dict[str, Any]]:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    (file.parent / "c.csv").write_text(stream.getvalue(), encoding=encoding, newline="")
    review.main([str(file), "--apply", str(file.parent / "c.csv"), "--output_file", str(file.parent / "out.jsonl")])
    return read_jsonl(file.parent / "out.jsonl")


def test_the_sheet_holds_every_rationale_its_frames_and_nothing_that_runs(file: Path, toy_set: tuple) -> None:
    rows, samples = table(sheet := made(file, toy_set[0])), read_jsonl(file)
    assert len(rows) == len(samples) == 80 and tuple(rows[0]) == COLUMNS
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
    page = (sheet / "review.html").read_text(encoding="utf-8")
    assert page.count("<section") == 80 and EVIL not in page and "<b>left" not in page
    pictures = sorted((sheet / "frames").glob("*.jpg"))
    assert len(pictures) == 40 and all(f"frames/{picture.name}" in page for picture in pictures)
    with pytest.raises(UserError, match="holds a sheet already"):
        made(file, toy_set[0])


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16")])
def test_an_untouched_sheet_changes_nothing(file: Path, toy_set: tuple, delimiter: str, encoding: str) -> None:
    rows = table(made(file, toy_set[0]))
    assert back(file, rows, delimiter=delimiter, encoding=encoding) == read_jsonl(file)


def test_decisions_win_and_stage_1_takes_the_file(file: Path, toy_set: tuple) -> None:
    rows, samples = table(made(file, toy_set[0])), read_jsonl(file)
    rescued = next(i for i, s in enumerate(samples) if s["verdict"] == "dropped")
    rows[rescued] |= {"decision": "Keep ", "text": f"a thing moves\r\nclassification: {samples[rescued]['label']}"}
    rows[0]["decision"] = "drop"
    rows[2]["decision"] = "keep"
    found = back(file, rows[:40])
    assert found[rescued]["verdict"] == "kept" and found[rescued]["reviewed"] is True
    assert found[rescued]["text"] == f"a thing moves\nclassification: {samples[rescued]['label']}"
    assert (found[0]["verdict"], found[0]["reason"], found[0]["text"]) == ("dropped", "reviewed", samples[0]["text"])
    assert found[2]["text"] == samples[2]["text"] and found[2]["reason"] is None
    assert [row for row in found if not row.get("reviewed")] == [
        s for i, s in enumerate(samples) if i not in (0, 2, rescued)
    ]
    summary = read_json(file.parent / "out.summary.json")
    assert summary["reviewed"] == {"kept": 2, "dropped": 1} and summary["checks"] == "label_match"
    data = DataArguments(task=str(toy_set[0]), definitions=False, min_pixels=3136, max_pixels=3136)
    task = open_task(data, ModelArguments(model_name_or_path=str(REPOSITORY / "toy/base")))
    stage = StageArguments(init="base", target="rationale", rationales=str(file.parent / "out.jsonl"))
    used = training_rows(task, stage)
    assert len(used) == sum(row["verdict"] != "dropped" for row in found)


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, {"id": "toy99999"}, r"c.csv:\d+: there is no rationale of clip 'toy99999', sample '0'; keep the ids"),
        (0, {"sample": "7"}, "sample '7'"),
        (1, {"sample": "0"}, r"clip 'toy\d+', sample 0 stands at .*c.csv:\d+ too; remove one"),
        (
            0,
            {"label": "pimgul"},
            "the label of clip 'toy.*' is 'pimgul' but was '.*'; labels are corrected in the data",
        ),
        (0, {"decision": "yes"}, "the decision 'yes' is none of 'keep', 'drop'"),
        (0, {"text": "new"}, "was changed without a decision; write keep or drop"),
        (0, {"text": "a thing moves left", "decision": "keep"}, "another last line; write 'Classification: "),
        (0, {"text": "a thing\nClassification: nothing", "decision": "keep"}, "another last line; write 'Classif"),
        (
            0,
            {"text": "a thing\nClassification: dorvan\nClassification: pimgal", "decision": "keep"},
            "lines that disagree; write 'Classification: ",
        ),
        (0, {"text": "Classification: x", "decision": "keep"}, "kept without any reasoning"),
    ],
)
def test_a_slip_is_one_sentence_with_its_line(
    number: int, change: dict[str, str], message: str, file: Path, toy_set: tuple
) -> None:
    rows = table(made(file, toy_set[0]))
    rows[number] |= change
    with pytest.raises(UserError, match=message):
        back(file, rows)
    assert not (file.parent / "out.jsonl").exists()


def test_a_text_that_answers_a_prompt_of_its_own_is_kept_as_it_is(file: Path, toy_set: tuple) -> None:
    """Stage 1 wants no final line there, with a label or without."""
    samples = [row | {"prompt": "Describe the clip.", "text": "a cat walks"} for row in read_jsonl(file)]
    write_jsonl(file, samples)
    rows = table(made(file, toy_set[0]))
    assert "asked: <bdi>Describe the clip.</bdi>" in (file.parent / "sheet/review.html").read_text(encoding="utf-8")
    for row in rows[:4]:
        row["decision"] = "keep"
    found = back(file, rows)
    verdicts = ["kept" if row["label"] else "unlabelled" for row in samples[:4]]
    assert [row["verdict"] for row in found[:4]] == verdicts and found[0]["text"] == "a cat walks"
    rows[0]["text"] = " "
    with pytest.raises(UserError, match="is kept without any reasoning"):
        back(file, rows)


def test_the_command_on_the_page_takes_a_sheet_of_open_answers_back(
    toy_set: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "my clips"
    root.mkdir()
    shutil.copy(next((toy_set[1] / "clips").glob("*.mp4")), root / "a.mp4")
    (root / "clips.csv").write_text("id,video,label,split\na,a.mp4,3,train\n")
    raw = {"name": "t", "question": "How many?", "role": "You watch.", "aspects": ["things"]}
    raw |= {"answer": {"type": "number", "absolute": 0}, "data": {"root": "my clips", "annotations": "clips.csv"}}
    Path("my card.yaml").write_text(yaml.safe_dump(raw))
    sample = {"id": "a", "video": "a.mp4", "label": "3", "sample": 0, "text": "Three things.\nAnswer: 3"}
    write_jsonl("my r.jsonl", [sample | {"verdict": "dropped", "reason": "too_short"}])
    review.main(["my r.jsonl", "--task", "my card.yaml", "--output", "sheet"])
    page = Path("sheet/review.html").read_text(encoding="utf-8")
    assert "the last line <code>Answer: label</code>" in page
    Path("corrected.csv").write_text(Path("sheet/review.csv").read_text().replace("too_short,,", "too_short,keep,"))
    words = shlex.split(html.unescape(page.partition('<pre class="wide">')[2].partition("</pre>")[0]))
    assert words[:2] == ["python", "rbft_trl/review.py"]
    review.main(words[2:])
    (row,) = read_jsonl("reviewed.jsonl")
    assert row == sample | {"verdict": "kept", "reason": None, "reviewed": True}


@pytest.mark.parametrize("edited", [{"verdict": "kept"}, {"reason": "ugly"}, {"video": "clips/other.mp4"}])
def test_a_column_that_is_not_read_is_told_where_it_was_edited(file: Path, toy_set: tuple, edited: dict) -> None:
    rows = table(made(file, toy_set[0]))
    dropped = next(i for i, row in enumerate(rows) if row["verdict"] == "dropped")
    for number in (dropped, dropped + 2):
        rows[number] |= edited
    ((name, value),) = edited.items()
    words = rf"'{name}' is '{value}' and was another \(2 such cells\), .* only id, sample, label, decision, text are"
    with pytest.warns(UserWarning, match=words):
        assert back(file, rows) == read_jsonl(file)


@pytest.mark.parametrize("apply", [False, True])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": None}, "'text' is None but must be text"),
        ({"id": 3}, "'id' is 3 but must be text"),
        ({"label": 3}, "'label' is 3 but must be text"),
        ({"verdict": ...}, "'verdict' is missing"),
        ({"verdict": "keep"}, "'verdict' is 'keep' but must be one of kept, dropped, unlabelled"),
        ({"sample": 0}, r"clip 'toy\d+', sample 0 stands twice; remove one"),
        ({"sample": ...}, r"clip 'toy\d+', sample 0 stands twice; remove one"),
        ({"sample": None}, "'sample' is None but must be a number"),
    ],
)
def test_a_damaged_row_is_told_with_its_line(
    file: Path, toy_set: tuple, apply: bool, change: dict, words: str
) -> None:
    rows, samples = table(made(file, toy_set[0])), read_jsonl(file)
    changed = {key: value for key, value in (samples[1] | change).items() if value is not ...}
    write_jsonl(file, [samples[0], changed])
    with pytest.raises(UserError, match=rf"r\.jsonl:2: {words}"):
        back(file, rows[:2]) if apply else review.main([str(file), "--task", str(toy_set[0]), "--output", "x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.csv:1: the column 'id' is missing"),
        ("id,sample,label,decisions,text\n", "the column 'decision' is missing; did you mean 'decisions'"),
        ("id,sample,label,decision,text\na,0\n", "c.csv:2: 2 cells, but the header has 5"),
        ('id,sample,label,decision,text\na,0,,keep,"open\n', "correct the quotes"),
        (b"id,sample,label,decision,text\n\xff\xfaa", "is not UTF-8"),
    ],
)
def test_a_broken_table_is_told(text: str | bytes, message: str, file: Path) -> None:
    (file.parent / "c.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    words = ["--apply", str(file.parent / "c.csv"), "--output_file", str(file.parent / "out.jsonl")]
    with pytest.raises(UserError, match=message):
        review.main([str(file), *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "c.yaml"], "give --task and --output"),
        (["--apply", "c.csv"], "needs --output_file"),
        (["--apply", "c.csv", "--output_file", "x", "--output", "y"], "and no --output"),
        (["--apply", "c.csv", "--output_file", "r.jsonl"], "is what is reviewed"),
        (["--apply", "c.csv", "--output_file", "."], "--output_file '.' is a folder; name a file in it"),
        (["--task", "c.yaml", "--output", "x", "--most", "0"], "--most is 0, but .* from 1 upwards; leave it out for"),
        (["--most", "-2"], "--most is -2, but it is the number of rationales on a new sheet"),
        (["--apply", "c.csv", "--output_file", "o.jsonl", "--most", "9"], "--most is 9, .* leave it out with --apply"),
    ],
)
def test_a_command_that_makes_no_sense(
    words: list[str], message: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(UserError, match=message):
        review.main(["r.jsonl", *words])


def test_another_task_and_a_clip_that_cannot_be_read(file: Path, toy_set: tuple, tmp_path: Path) -> None:
    write_jsonl(file, [read_jsonl(file)[0] | {"id": "elsewhere"}])
    with pytest.raises(UserError, match="clip 'elsewhere' is not in the data"):
        made(file, toy_set[0])
    file.write_text("")
    with pytest.raises(UserError, match=r"r\.jsonl' holds no rationale; name a file"):
        made(file, toy_set[0])
    assert FORMULA.match("'=1") and not FORMULA.match("'a=1")


@needs_browser
def test_the_page_saves_what_was_decided(file: Path, toy_set: tuple) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    sheet, samples = made(file, toy_set[0]), read_jsonl(file)
    with headless() as browser:
        behaviour = {"behavior": "allow", "downloadPath": str(file.parent)}
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
        browser.get((sheet / "review.html").as_uri())
        clips = browser.find_elements(By.CSS_SELECTOR, "section.clip")
        assert len(clips) == 80
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth + 1")
        wait = WebDriverWait(browser, 20)
        wait.until(lambda b: b.execute_script("return document.images[0].naturalWidth") > 100)
        Select(clips[0].find_element(By.TAG_NAME, "select")).select_by_value("drop")
        Select(clips[2].find_element(By.TAG_NAME, "select")).select_by_value("keep")
        text = clips[1].find_element(By.TAG_NAME, "textarea")
        text.clear()
        text.send_keys(f'one "small" thing, moving\nClassification: {samples[1]["label"]}')
        assert browser.find_element(By.ID, "count").text == "3 of 80 decided"
        Select(browser.find_element(By.ID, "show")).select_by_value("undecided")
        assert [clip.is_displayed() for clip in clips[:4]] == [False, False, False, True]
        browser.find_element(By.ID, "save").click()
        saved = file.parent / "corrected.csv"
        wait.until(lambda _: saved.exists() and saved.stat().st_size > 0)
        assert not browser.get_log("browser")
    review.main([str(file), "--apply", str(saved), "--output_file", str(file.parent / "out.jsonl")])
    found = read_jsonl(file.parent / "out.jsonl")
    assert [row["verdict"] for row in found[:3]] == ["dropped", "kept", samples[2]["verdict"]]
    assert found[1]["text"] == f'one "small" thing, moving\nClassification: {samples[1]["label"]}'
    assert [json.dumps(row) for row in found[3:]] == [json.dumps(row) for row in samples[3:]]
