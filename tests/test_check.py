"""The first command on one's own clips: every planted fault is found, and the preview shows what is trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rbft_trl import check
from rbft_trl.data.jsonl import write_jsonl
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from rbft_trl.evidence.findings import overview
from tests.helpers import toy_recipe

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A camera's folder with two classes of 12 clips, each from a source of its own."""
    monkeypatch.setenv("RBFT_CACHE", str(tmp_path / "cache"))
    for number in range(24):
        make_clip(
            tmp_path / f"clips/{'cat' if number % 2 else 'fire alarm'}/cam{number}_a.mp4", first=number, frames=8
        )
    return tmp_path / "clips"


@pytest.fixture
def card(folder: Path) -> Path:
    path = folder.parent / "cards" / "mine.yaml"
    assert check.main(["--init", str(folder), "--card", str(path)]) == 0
    return path


def report_of(card: Path, *more: str) -> tuple[int, dict]:
    out = card.parent / "report"
    errors = check.main([str(card), "--report_dir", str(out), *more])
    return errors, json.loads((out / "check.json").read_text())


def kinds(report: dict) -> set[tuple[str, str]]:
    return {(finding["level"], finding["kind"]) for finding in report["findings"]}


def test_uneven_sources_of_the_test_split_show_less() -> None:
    card = TaskCard.from_yaml(REPOSITORY / "recipes/tasks/toy.yaml", with_data=False)
    shows = []
    for first in (10, 810):  # 100 sources of 10 clips; one of 810, the others of 2 or 1
        rows = [
            {"id": str(i), "split": "test", "label": card.names[0], "group": max(0, i - first)} for i in range(1000)
        ]
        for row in rows:
            row["group"] = row["group"] * 99 // (1000 - first)
        shows.append(overview(card, rows, {row["id"]: {} for row in rows}, {})["test_shows"])
    assert shows[0] < 20 and shows[1] is None, "one source of 810 clips is worth 1.5 sources"


def test_the_first_draft_is_a_card_that_loads(card: Path, folder: Path) -> None:
    text = card.read_text()
    assert text.startswith("# First draft, made from 'clips'; clips found: cat 12, fire alarm 12.\n")
    assert TaskCard.from_yaml(card).names == ["cat", "fire alarm"]
    errors, report = report_of(card)
    assert errors == 0 and kinds(report) == {("warning", "draft")}
    assert report["splits"]["train"]["clips"] + report["splits"]["test"]["clips"] < 24
    assert (
        report["seconds"] == [1.0] * 5
        and report["codecs"] == {"h264": 24}
        and report["video_tokens"] == [4 * 12 * 12] * 5
        and report["test_shows"] is None
    )
    with pytest.raises(UserError, match=r"the card '.*mine\.yaml' exists; name another"):
        check.main(["--init", str(folder), "--card", str(card)])


def test_the_first_draft_of_a_table_and_of_split_folders(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "s" / split).mkdir(parents=True)
        for name in ("cat", "fire alarm"):
            shutil.copytree(folder / name, tmp_path / "s" / split / name)
    (tmp_path / "s/list.csv").write_text("path,label\n")
    check.main(["--init", str(tmp_path / "s"), "--card", str(tmp_path / "s.yaml")])
    assert "# Not used, the folders are the classes: 'list.csv'" in (tmp_path / "s.yaml").read_text()
    assert TaskCard.from_yaml(tmp_path / "s.yaml").names == ["cat", "fire alarm"]
    (tmp_path / "flat").mkdir()
    folder = tmp_path / "flat"
    (folder / "notes.txt").write_text("made in 2024\nby hand\n")  # no list of clips
    (folder / "rows.csv").write_text("Dateiname;Label\nx.mp4;cat\n".replace("Dateiname", "path") + "y.mp4;dog\n")
    check.main(["--init", str(folder), "--card", str(tmp_path / "t.yaml")])
    made = TaskCard.from_yaml(tmp_path / "t.yaml")
    assert made.names == ["cat", "dog"] and made.data.annotations == folder / "rows.csv"
    (folder / "other.tsv").write_text("path\tlabel\n")
    with pytest.raises(UserError, match=r"holds 2 tables, 'other\.tsv', 'rows\.csv'"):
        check.main(["--init", str(folder), "--card", str(tmp_path / "u.yaml")])
    (tmp_path / "none").mkdir()
    for place, words in (("none", "holds 0 labels"), ("nowhere", "is no folder")):
        with pytest.raises(UserError, match=words):
            check.main(["--init", str(tmp_path / place)])


def test_every_planted_fault_is_found(card: Path, folder: Path, make_clip: Callable[..., Path]) -> None:
    raw = yaml.safe_load(card.read_text())
    raw["labels"] = {"cat": "a cat", "cat in": "a cat comes in", "dog": "a dog", "fire alarm": "smoke"}
    raw["data"] = {"root": str(folder), "annotations": "rows.csv"}
    card.write_text(yaml.safe_dump(raw))
    make_clip(folder / "spare.mp4", first=50)
    (folder / "again.mp4").write_bytes((folder / "spare.mp4").read_bytes())
    (folder / "copy.mp4").write_bytes((folder / "spare.mp4").read_bytes())
    (folder / "remuxed.mov").write_bytes((folder / "spare.mp4").read_bytes() + b"\0\0\0\x08free")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut.mp4").write_bytes(make_clip(folder / "x.mp4", movflags="faststart", frames=40).read_bytes()[:2500])
    clips = sorted(folder.rglob("cam*.mp4"))
    rows = [
        f"{p.relative_to(folder)},{p.parent.name},{'test' if i % 3 else 'train'},g{i}" for i, p in enumerate(clips)
    ]
    rows += ["spare.mp4,cat,train,a", "again.mp4,fire alarm,train,b", "copy.mp4,cat,test,c", "remuxed.mov,cat,train,d"]
    rows += ["empty.mp4,cat,train,e", "cut.mp4,cat,test,f", "nowhere.mp4,cat,test,h", "x.mp4,cat,test,g0"]
    (folder / "rows.csv").write_text("\n".join(["video,label,split,group", *rows]) + "\n")
    errors, report = report_of(card)
    assert kinds(report) >= {
        ("error", "empty_file"), ("error", "truncated"), ("error", "missing"), ("error", "leak"), ("warning", "leak"),
        ("error", "conflicting_labels"), ("error", "empty_class"), ("warning", "empty_class"), ("warning", "prefix"),
        ("warning", "empty_split"), ("warning", "draft"),
    }  # fmt: skip
    assert errors == sum(finding["level"] == "error" for finding in report["findings"]) >= 6
    page = (card.parent / "report/check.html").read_text()
    assert "a run would stop" in page and "empty_file" in page and "<script" not in page
    _, lenient = report_of(card, "--on_bad_clip", "leave_out")
    assert ("warning", "empty_file") in kinds(lenient) and ("error", "empty_file") not in kinds(lenient)


def test_a_recipe_is_previewed_without_weights(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(smoke_base, base)
    (base / "model.safetensors").write_bytes(b"no weights")
    card = TaskCard.from_yaml(toy_set[0])
    recipe = toy_recipe("direct", tmp_path, toy_set[0], base, output_dir=tmp_path / "out", max_steps=7)
    assert check.main([recipe, "--report_dir", str(tmp_path / "r"), "--shots", "4"]) == 0
    report, page = json.loads((tmp_path / "r/check.json").read_text()), (tmp_path / "r/check.html").read_text()
    assert report["budget"]["rows"] == 32 and report["budget"]["batch"] == 8 and report["budget"]["steps"] == 7
    assert report["budget"]["steps_per_epoch"] == 4 and "LoRA layers" in report["parts"]
    trained = page.split('<span class="trained">')[-1].split("</span>")[0]
    assert trained.removesuffix("&lt;|im_end|&gt;") in card.names and trained.endswith("&lt;|im_end|&gt;")
    assert "⟨16 video tokens⟩" in page and "data:image/png;base64" in page
    assert (tmp_path / "r/frames.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "out").exists()
    long = check.main([recipe, "--report_dir", str(tmp_path / "r"), "--max_length", "40"])
    assert long == 1 and ("error", "recipe") in kinds(json.loads((tmp_path / "r/check.json").read_text()))


def test_stage_1_shows_its_rationale(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    card = TaskCard.from_yaml(toy_set[0])
    from rbft_trl.data.rows import load_rows
    from rbft_trl.data.splits import draw_shots

    rows = [r for r in draw_shots(load_rows(card), 2, seed=0) if r["split"] == "train" and r["label"]]
    text = "two <b>red</b> squares"
    write_jsonl(tmp_path / "r.jsonl", [
        {"id": r["id"], "label": r["label"], "text": f"{text}\n{card.final_line(r['label'])}", "verdict": "kept"}
        for r in rows
    ])  # fmt: skip
    changes = {"rationales": tmp_path / "r.jsonl", "output_dir": tmp_path / "out"}
    recipe = toy_recipe("stage1", tmp_path, toy_set[0], smoke_base, **changes)
    assert check.main([recipe, "--report_dir", str(tmp_path / "r")]) == 0
    page = (tmp_path / "r/check.html").read_text()
    assert "two &lt;b&gt;red&lt;/b&gt; squares" in page.split('<span class="trained">')[-1]


@pytest.mark.parametrize("name", ["rationales", "eval"])
def test_other_recipes_are_checked_too(name: str, toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    recipe = toy_recipe(name, tmp_path, toy_set[0], smoke_base)
    assert check.main([recipe, "--report_dir", str(tmp_path / "r")]) == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "name a task card or a recipe"),
        (["nowhere.yaml"], "'nowhere.yaml' does not exist"),
        (["recipes/toy/compare.yaml"], "compares recipes; check one of those"),
        (["recipes/tasks/toy.yaml", "--card", "x.yaml"], "--card 'x.yaml' says where --init writes"),
        (["recipes/tasks/toy.yaml", "--shotz", "2"], "unknown key 'shotz'; did you mean 'shots'"),
    ],
)
def test_mistakes_are_one_sentence(argv: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UserError, match=words):
        check.main(argv)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("stage2", {"init": "nowhere"}, "'nowhere' does not exist"),
        ("direct", {"per_device_train_batch_size": 64}, "do not fill one batch of 64"),
        ("direct", {"optim": "galore_adamw"}, "optim 'galore_adamw'"),
    ],
)
def test_what_would_stop_a_run_is_an_error_here(
    name: str, changes: dict, words: str, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe(name, tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "out", **changes)
    assert check.main([recipe, "--report_dir", str(tmp_path / "r")]) == 1
    (finding,) = json.loads((tmp_path / "r/check.json").read_text())["findings"]
    assert (finding["level"], finding["kind"]) == ("error", "recipe") and words in finding["message"]


def test_parts_of_one_file_in_two_splits_are_a_leak(card: Path, folder: Path, make_clip: Callable[..., Path]) -> None:
    raw = yaml.safe_load(card.read_text())
    raw["data"] = {"root": str(folder), "annotations": "rows.csv"}
    card.write_text(yaml.safe_dump(raw))
    clip = make_clip(folder / "one.mp4", frames=32, first=40)
    (folder / "two.mp4").write_bytes(clip.read_bytes())
    rows = [f"{p.relative_to(folder)},{p.parent.name},train,,," for p in sorted(folder.rglob("cam*.mp4"))]
    rows += ["one.mp4,cat,train,0,1,a", "two.mp4,cat,test,1,99,b"]
    (folder / "rows.csv").write_text("\n".join(["video,label,split,start,end,group", *rows]) + "\n")
    errors, report = report_of(card)
    assert errors and {("error", "leak"), ("warning", "end_beyond")} <= kinds(report)
