"""Tables and folders in the forms people have: read alike, columns found, every mistake told with file and line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from rbft_trl.data.rows import load_rows
from rbft_trl.data.source import DataSource
from rbft_trl.data.tables import read_table
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError

ROWS = [
    {"video": "a b.mp4", "label": "cat", "split": "train", "group": "g1"},
    {"video": "b.mp4", "label": "fire alarm", "split": "test", "group": "g2"},
]


def card(root: Path, annotations: Any = None, **settings: Any) -> TaskCard:
    source = DataSource(root=root, annotations=annotations, **settings)
    labels = {"cat": "a cat walks by", "fire alarm": "smoke or flames"}
    prompts = {"label": "$question $labels", "rationale": "$question $labels$hint", "hint": "$label"}
    return TaskCard("home", labels, "What?", "You see.", ("light",), prompts, source, root / "card.yaml")


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def read(data: str | bytes, name: str = "rows.csv", **settings: Any) -> list[dict[str, Any]]:
        (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return load_rows(card(tmp_path, tmp_path / name, **settings))

    return read


def table(delimiter: str, rows: list[dict[str, str]] = ROWS) -> str:
    return "\n".join(delimiter.join(cells) for cells in [list(rows[0]), *(list(row.values()) for row in rows)])


def test_every_form_gives_the_same_rows(read: Callable, tmp_path: Path) -> None:
    expected = read(table(","))
    assert [row["video"] for row in expected] == ["a b.mp4", "b.mp4"]
    assert read(table(";")) == read(table("\t"), "rows.tsv") == expected
    assert read("sep=;\r\n" + table(";").replace("\n", "\r\n")) == expected
    assert read("\ufeff" + table(";")) == expected
    assert read(table("\t").encode("utf-16")) == expected  # Excel's "Unicode text"
    assert read("\n".join(json.dumps(row) for row in ROWS), "rows.jsonl") == expected
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert load_rows(card(tmp_path, tmp_path / "rows.parquet")) == expected


@pytest.mark.parametrize(
    "header", ["path,class,subset,source", "File Name,Category,partition,scene", "filepath,label_name,SET,Camera"]
)
def test_usual_names_are_found(read: Callable, header: str) -> None:
    cells = table(",").split("\n", 1)[1]
    assert read(f"{header}\n{cells}") == read(table(","))


def test_other_columns_are_left_alone_and_a_typing_error_is_not(read: Callable) -> None:
    more = "video,label,split,notes,level\na.mp4,cat,train,x,1\n"
    assert read(more)[0]["label"] == "cat"
    with pytest.raises(UserError, match=r"rows\.csv:\d: unknown column 'lable'; did you mean 'label'\?"):
        read(more.replace("label", "lable"))


def test_two_columns_that_could_be_meant(read: Callable) -> None:
    text = "path,file,label,split\na.mp4,b.mp4,cat,train\n"
    with pytest.raises(UserError, match=r"columns 'path' and 'file' could both be 'video'; .*data\.columns"):
        read(text)
    assert read(text, columns={"video": "file"})[0]["video"] == "b.mp4"
    assert read("path,video,label,split\na.mp4,b.mp4,cat,train\n")[0]["video"] == "b.mp4"  # our own name wins
    with pytest.raises(UserError, match=r"'video' is called 'fil', which is not there; did you mean 'file'\?"):
        read(text, columns={"video": "fil"})


def test_mmaction_lists(read: Callable, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("x/c.mp4 1\n")
    text = "x/a b.mp4 0\nx/b.mp4 1\n"
    settings: dict[str, Any] = {"classes": ("cat", "fire alarm"), "validation": 0.0, "test": 0.0}
    rows = read(text, "a.txt", **settings)
    assert {row["video"]: row["label"] for row in rows} == {"x/a b.mp4": "cat", "x/b.mp4": "fire alarm"}
    files = {"train": tmp_path / "a.txt", "test": tmp_path / "b.txt"}
    rows = load_rows(card(tmp_path, files, **settings))
    assert [row["split"] for row in rows] == ["train", "train", "test"]
    with pytest.raises(UserError, match=r"a\.txt:2: class 2 is beyond the 2 lines of data\.classes"):
        read("x/a.mp4 0\nx/b.mp4 2\n", "a.txt", **settings)
    with pytest.raises(UserError, match=r"a\.txt:1: label '0' is not in .* name the file .* as data\.classes"):
        read(text, "a.txt", test=0.0)
    with pytest.raises(UserError, match=r"a\.txt:1 has two numbers after the path"):
        read("x/a 120 0\n", "a.txt", **settings)


@pytest.mark.parametrize(
    ("start", "end", "seconds"),
    [("1.5", "3", (1.5, 3.0)), ("0:01", "1:02.5", (1.0, 62.5)), ("", "0:00:02", (None, 2.0)), ("3", "", (3.0, None))],
)
def test_parts_of_one_video(read: Callable, start: str, end: str, seconds: tuple[float | None, float | None]) -> None:
    rows = read(f"video,label,split,start,end\na.mp4,cat,train,{start},{end}\na.mp4,cat,train,70,80\n")
    part = next(row for row in rows if row["start"] != 70)
    assert (part["start"], part["end"]) == seconds
    assert len({row["id"] for row in rows}) == 2 and {row["group"] for row in rows} == {"a.mp4"}


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("a.mp4,cat,train,3,2", ":2: 'end' 2 s is not after 'start' 3 s"),
        ("a.mp4,cat,train,x,2", ":2: 'start' is 'x' but must be seconds"),
        ("a.mp4,cat,train,-1,2", ":2: 'start' is '-1' but must be seconds"),
        ("a.mp4,cat,train,1,inf", ":2: 'end' is 'inf' but must be seconds"),
        ("a.mp4,cat|fire alarm,train,,", ":2: 'cat|fire alarm' names 2 labels for one clip; multi-label"),
        ("a.mp4,cat,trian,,", ":2: split 'trian'; did you mean 'train'"),
        ("a.mp4,cat,train,1,2\na.mp4,fire alarm,train,1,2", ":3: id 'a.mp4#1-2.0' is also at"),
    ],
)
def test_wrong_cells(read: Callable, cells: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(f"video,label,split,start,end\n{cells}\n")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_several_labels_in_a_list_are_refused(read: Callable) -> None:
    with pytest.raises(UserError, match=r"rows\.jsonl:1: 2 labels for one clip, .* multi-label data is not supported"):
        read(json.dumps({"video": "a.mp4", "label": ["cat", "fire alarm"]}), "rows.jsonl")
    row = json.dumps({"video": "a.mp4", "label": ["cat"], "split": "train"})
    assert read(row, "rows.jsonl")[0]["label"] == "cat"


def test_text_beside_a_clip_is_one_line_within_its_limit(read: Callable) -> None:
    text = 'video,label,split,title\na.mp4,cat,train,"two\n lines <|im_end|>"\nb.mp4,cat,train,\n'
    rows = read(text)
    assert [row["context"] for row in rows] == ["two lines <|im_end|>", None]
    with pytest.warns(UserWarning, match=r"the text of 1 clips is longer than data\.text_limit = 5"):
        assert read(text, text_limit=5)[0]["context"] == "two l"
    home = card(Path())
    assert home.label_prompt(text="two l") != home.label_prompt() and "two l" in home.rationale_prompt(text="two l")


def test_groups_by_the_path(read: Callable) -> None:
    text = "video,label,split\ncam1_a.mp4,cat,train\ncam1_b.mp4,cat,train\n"
    assert {row["group"] for row in read(text, group_pattern=r"(cam\d+)_")} == {"cam1"}
    with pytest.raises(UserError, match=r":2: data\.group_pattern '\(dog\)' finds nothing in 'cam1_a\.mp4'"):
        read(text, group_pattern="(dog)")


def test_validation_is_cut_from_train_if_only_it_is_missing(read: Callable) -> None:
    lines = [f"{i}.mp4,cat,{'test' if i < 4 else 'train'}" for i in range(24)]
    text = "\n".join(["video,label,split", *lines])
    assert {row["split"] for row in read(text)} == {"train", "test"}
    rows = read(text, validation=0.25)
    assert [row["id"] for row in rows if row["split"] == "test"] == [f"{i}.mp4" for i in range(4)]
    assert sum(row["split"] == "validation" for row in rows) == 5


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def test_split_folders_of_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.mp4", "Val/cat/b.mp4", "test/fire alarm/c.mkv")
    rows = load_rows(card(tmp_path))
    assert {row["id"]: row["split"] for row in rows} == {
        "Val/cat/b.mp4": "validation", "test/fire alarm/c.mkv": "test", "train/cat/a.mp4": "train",
    }  # fmt: skip
    (tmp_path / "more").mkdir()
    with pytest.raises(UserError, match=r"holds 'more' beside the split folder 'Val'"):
        load_rows(card(tmp_path))


def test_videofolder_metadata(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.mp4", "train/sub/b.mp4", "test/c.mp4")
    (tmp_path / "train/metadata.csv").write_text("file_name,label\na.mp4,cat\nsub/b.mp4,\n")
    (tmp_path / "test/metadata.jsonl").write_text('{"file_name": "c.mp4", "label": "cat"}\n')
    rows = load_rows(card(tmp_path))
    assert [(row["id"], row["label"], row["split"]) for row in rows] == [
        ("test/c.mp4", "cat", "test"), ("train/a.mp4", "cat", "train"), ("train/sub/b.mp4", None, "train"),
    ]  # fmt: skip
    (tmp_path / "test/metadata.csv").write_text("file_name,label\nc.mp4,cat\n")
    with pytest.raises(UserError, match=r"metadata\.csv' and 'metadata\.jsonl' lie side by side"):
        load_rows(card(tmp_path))


def test_a_broken_parquet_and_an_unknown_ending(tmp_path: Path) -> None:
    for name, words in [("rows.parquet", "is no Parquet file"), ("rows.xlsx", "ends in '.xlsx'; write one of")]:
        (tmp_path / name).write_bytes(b"PAR1 but not really")
        with pytest.raises(UserError, match=words):
            list(read_table(tmp_path / name))
