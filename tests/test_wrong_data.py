"""Wrong cards and wrong data as commands: one sentence with the value, the file and line, and the way out."""

import sys
from pathlib import Path

import pytest
import yaml

from rbft_trl import check
from rbft_trl.errors import run_entry

CARD = {"name": "home", "question": "What?", "role": "You see.", "aspects": ["things"]}
CARD |= {"labels": {"cat": "a cat walks by", "fire alarm": "smoke or flames"}}
CSV = "video,label\na.mp4,cat\nb.mp4,fire alarm\n"


def table(text: str | bytes, name: str = "rows.csv") -> dict:
    return {"file": (name, text), "data": {"annotations": name}}


CASES: dict[str, tuple[dict, list[str]]] = {
    "no labels": ({"labels": ...}, ["card.yaml", "'labels' is missing", "copy_me.yaml"]),
    "one label": ({"labels": {"cat": "a cat"}}, ["'labels' must map at least two"]),
    "label without definition": ({"labels": {"cat": "", "dog": "a dog"}}, ["label 'cat' has no definition", "write"]),
    "label that YAML misread": ({"labels": {True: "yes", "no": "none"}}, ["label True was read as bool", "quotes"]),
    "labels equal but for case": ({"labels": {"Cat": "a", "cat ": "b"}}, ["'cat '", "space", "rename"]),
    "labels equal when normalised": ({"labels": {"Cat": "a", "cat": "b"}}, ["'Cat' and 'cat' differ only in case"]),
    "special token in a label": ({"labels": {"<|im_end|>": "a", "dog": "b"}}, ["special token", "rename"]),
    "special token in the question": ({"question": "What? <|video_pad|>"}, ["'question'", "special tokens"]),
    "aspects as text": ({"aspects": "things"}, ["'aspects' is 'things'", "list"]),
    "unknown card key": ({"labls": 1}, ["unknown key 'labls'", "did you mean 'labels'"]),
    "unknown data key": ({"data": {"rooot": "x"}}, ["unknown key 'rooot' in 'data'", "did you mean 'root'"]),
    "no root": ({"data": {"root": None}}, ["data.root is None", "folder"]),
    "root is not there": ({"data": {"root": "nowhere"}}, ["nowhere' is no folder", "correct the path"]),
    "root and dataset": ({"data": {"dataset": "org/name"}}, ["data.root", "not both"]),
    "dataset without a network": ({"data": {"root": ..., "dataset": "org/name"}}, ["'org/name'", "Hub", "correct it"]),
    "revision without dataset": ({"data": {"revision": "v1"}}, ["data.revision is 'v1'", "leave it out"]),
    "no such table": ({"data": {"annotations": "rows.csv"}}, ["rows.csv' does not exist", "correct the path"]),
    "table of another kind": (table("x", "rows.xlsx"), ["ends in '.xlsx'", "write one of"]),
    "no video column": (table("label\ncat\n"), ["rows.csv:1", "'video' is missing", "data.columns"]),
    "column that is nearly ours": (table("video,labl\na.mp4,cat\n"), ["rows.csv:1", "'labl'", "did you mean 'label'"]),
    "column twice": (table("video,video\na.mp4,b\n"), ["rows.csv:1", "'video' stands twice", "remove one"]),
    "two columns for one": (table("path,file,label\na,b,cat\n"), ["'path' and 'file' could both be", "data.columns"]),
    "unknown label": (table("video,label\na.mp4,dog\n"), ["rows.csv:2", "label 'dog' is not in", "correct the cell"]),
    "label in another case": (table("video,label\na.mp4,Cat\n"), ["rows.csv:2", "the card spells it 'cat'"]),
    "two labels": (table("video,label\na.mp4,cat;fire alarm\n"), ["rows.csv:2", "names 2 labels", "not supported"]),
    "number of a class": (table("video,label\na.mp4,1\n"), ["rows.csv:2", "'1'", "data.classes"]),
    "absolute path": (
        table("video,label\n/a.mp4,cat\n"),
        ["rows.csv:2", "'/a.mp4' is absolute", "path below"],
    ),
    "path out of the root": (table("video,label\n../a.mp4,cat\n"), ["rows.csv:2", "leaves data.root"]),
    "empty path": (table("video,label\n,cat\n"), ["rows.csv:2", "'video' is empty", "write the clip's path"]),
    "same clip twice": (
        table("id,video,label\n1,a.mp4,cat\n2,a.mp4,cat\n"),
        ["rows.csv:3", "'a.mp4' is also", "keep one"],
    ),
    "same id twice": (table("id,video,label\n1,a.mp4,cat\n1,b.mp4,cat\n"), ["rows.csv:3", "id '1' is also", "unique"]),
    "unknown split": (table("video,label,split\na.mp4,cat,tain\n"), ["rows.csv:2", "split 'tain'", "'train'"]),
    "split for some rows": (
        table("video,label,split\na.mp4,cat,train\nb.mp4,cat,\n"),
        ["rows.csv:3", "'split' is empty", "all rows or none"],
    ),
    "test clip without label": (
        table("video,label,split\na.mp4,cat,train\nb.mp4,,test\n"),
        ["rows.csv:3", "test clip has no label", "move it to train"],
    ),
    "end before start": (table("video,label,start,end\na.mp4,cat,5,2\n"), ["rows.csv:2", "'end' 2 s is not after"]),
    "start is no time": (table("video,label,start\na.mp4,cat,soon\n"), ["rows.csv:2", "'start' is 'soon'", "1:23"]),
    "open quote": (table('video,label\n"a.mp4,cat\n'), ["rows.csv:", "correct the quotes"]),
    "cells that do not fit": (table("video,label\na.mp4,cat,x\n"), ["rows.csv:2", "more or fewer cells"]),
    "not UTF-8": (table(b"video,label\n\xe9.mp4,cat\n"), ["rows.csv:2", "not UTF-8", "save it as UTF-8"]),
    "no rows": (table("video,label\n"), ["holds no clip", "add rows"]),
    "JSON Lines with an array": (table("[1]\n", "rows.jsonl"), ["rows.jsonl:1", "holds list", "one object per line"]),
    "broken JSON Lines": (table('{"video": "a.mp4"\n', "rows.jsonl"), ["rows.jsonl:1", "is not JSON"]),
    "no Parquet": (table("video", "rows.parquet"), ["no Parquet file", "write it again"]),
    "list of raw frames": (table("a 30 1\n", "rows.txt"), ["rows.txt:1", "two numbers", "`path label`"]),
    "share above 1": ({"data": {"test": 1.5}}, ["data.test is 1.5", "from 0 to below 1"]),
    "pattern without a group": ({"data": {"group_pattern": "cam"}}, ["data.group_pattern 'cam' has 0 groups", "()"]),
    "pattern that is none": ({"data": {"group_pattern": "("}}, ["no regular expression", "correct it"]),
    "folder of no class": ({"folders": ["cats/a.mp4"]}, ["cats' is no label of", "did you mean 'cat'"]),
    "clip beside the classes": ({"folders": ["cat/a.mp4", "b.mp4"]}, ["lie directly in", "folder of its class"]),
    "prompt without its place": ({"prompt": "Say it."}, ["label.txt", "placeholder $labels is missing"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_card_or_table_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """In this process, as a command would; tests/test_wrong_recipes.py starts real ones."""
    change, words = CASES[name]
    card = CARD | {"data": {"root": "clips"} | change.get("data", {})}
    card |= {key: value for key, value in change.items() if key not in ("data", "file", "folders", "prompt")}
    card["data"] = {key: value for key, value in card["data"].items() if value is not ...}
    root = tmp_path / "clips"
    root.mkdir()
    if "file" in change:
        file, content = change["file"]
        (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    for clip in change.get("folders", []):
        (root / clip).parent.mkdir(exist_ok=True)
        (root / clip).write_bytes(b"x")
    if "prompt" in change:
        (tmp_path / "prompts").mkdir()
        (tmp_path / "prompts/label.txt").write_text(change["prompt"])
        card["prompts"] = "prompts"
    text = yaml.safe_dump({key: value for key, value in card.items() if value is not ...}, sort_keys=False)
    (tmp_path / "card.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["check.py", "card.yaml"])
    with pytest.raises(SystemExit, match="2"):
        run_entry(check.main)
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1, told
    assert all(word in told for word in words), told
    assert not (tmp_path / "outputs/check/check.json").exists()
