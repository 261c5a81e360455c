"""Rows: class folders, CSV and JSONL are read alike, and every mistake is told with its file and line."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rbft_trl.batches import fixed_batches
from rbft_trl.data.rows import check_inside, load_rows
from rbft_trl.data.source import DataSource
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError

HEADER = "id,video,label,split,group\n"
NO_PART = {"dealt": False, "start": None, "end": None, "context": None}
TWO = HEADER + "1,a.mp4,cat,train,g1\n2,b.mp4,fire alarm,test,g2\n"


def make_card(root: Path, annotations: str | None = None, **settings: float | str) -> TaskCard:
    labels = {"cat": "a cat walks by", "fire alarm": "smoke or flames"}
    source = DataSource(root=root, annotations=root / annotations if annotations else None, **settings)
    prompts = {"label": "$labels", "rationale": "$labels$hint", "hint": "$label"}
    return TaskCard("home", labels, "What?", "You see.", ("light",), prompts, source, root / "card.yaml")


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[dict[str, str | None]]]:
    def read(text: str | bytes, name: str = "rows.csv") -> list[dict[str, str | None]]:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return load_rows(make_card(tmp_path, name))

    return read


def test_csv_and_jsonl_give_the_same_rows(read: Callable) -> None:
    rows = read(TWO)
    assert rows[0] == {"id": "1", "video": "a.mp4", "label": "cat", "split": "train", "group": "g1"} | NO_PART
    lines = [json.dumps(row) for row in rows]
    assert read("\n\n".join(lines), "rows.jsonl") == rows
    assert read("\r\n".join(lines) + "\r\n", "rows.jsonl") == rows
    assert read(TWO.replace("\n", "\r\n")) == rows
    assert read(TWO.replace("\n", "\r")) == rows
    assert read(b"\xef\xbb\xbf" + TWO.encode()) == rows
    assert read(b"\xef\xbb\xbf" + lines[0].encode(), "rows.jsonl") == rows[:1]


def test_missing_columns_and_cells_are_filled_in(read: Callable) -> None:
    lines = ['{"video": "b.mp4", "id": 7, "split": "train"}', '{"video": "a.mp4", "split": "train"}']
    rows = read("\n".join([*lines, '{"video": "c.mp4", "split": "train", "label": "cat"}']), "rows.jsonl")
    assert [row["id"] for row in rows] == [row["group"] for row in rows] == ["7", "a.mp4", "c.mp4"]
    assert [row["label"] for row in rows] == [None, None, "cat"]
    with pytest.raises(UserError, match=r"rows\.jsonl:1: no row has a label; name the column"):
        read("\n".join(lines), "rows.jsonl")
    assert read(HEADER + ' x , a.mp4 , cat ,train," "\n')[0]["group"] == "x"


@pytest.mark.parametrize("name", ["a,b.mp4", 'a"b.mp4', "a\u2028b.mp4", "a\x0cb.mp4", "a\u0085b.mp4", "ä 😀.mp4"])
def test_odd_file_names_survive(read: Callable, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    assert read(f"{HEADER}1,{quoted},cat,train,g\n2,c.mp4,cat,train,g")[0]["video"] == name
    row = {"id": "1", "video": name, "label": "cat", "split": "train"}
    assert read(json.dumps(row, ensure_ascii=False), "rows.jsonl")[0]["video"] == name


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("id,video,lable\n", ":1", ["unknown column 'lable'", "did you mean 'label'"]),
        ("id,label\n1,cat\n", ":1", ["column 'video' is missing"]),
        ("", ":1", ["column 'video' is missing"]),
        ("video,label,video\na,cat,b\n", ":1", ["stands twice"]),
        (TWO + "3,c.mp4,cat,train\n", ":4", ["more or fewer cells", "quote commas"]),
        (TWO + "3,c.mp4,cat,train,g,more\n", ":4", ["more or fewer cells"]),
        (TWO + '3,c.mp4,cat,train,"g\n4,d.mp4,cat,train,g\n', ":5", ["unexpected end of data", "quotes"]),
        (TWO + "3,,cat,train,g\n", ":4", ["'video' is empty"]),
        (TWO + "3,/etc/passwd,cat,train,g\n", ":4", ["'/etc/passwd' is absolute"]),
        (TWO + "3,a/../../c.mp4,cat,train,g\n", ":4", ["leaves data.root"]),
        (TWO + "3,c.mp4,Cat,train,g\n", ":4", ["label 'Cat'", "the card spells it 'cat'"]),
        (TWO + "3,c.mp4,fire alrm,train,g\n", ":4", ["did you mean 'fire alarm'", "correct the cell or the card"]),
        (TWO + "3,c.mp4,zebra,train,g\n", ":4", ["label 'zebra' is not in"]),
        (TWO + "3,c.mp4,cat,trian,g\n", ":4", ["split 'trian'", "did you mean 'train'"]),
        (TWO + "3,c.mp4,cat,,g\n", ":4", ["'split' is empty while other rows have one"]),
        (TWO + "3,c.mp4,,test,g\n", ":4", ["a test clip has no label"]),
        (TWO + "1,c.mp4,cat,train,g\n", ":4", ["id '1' is also at", "rows.csv:2"]),
        (TWO + "3,./a.mp4,cat,train,g\n", ":4", ["video 'a.mp4' is also at", "rows.csv:2"]),
        (TWO + "3,a.mp4,fire alarm,train,g\n", ":4", ["with another label", "rows.csv:2"]),
        (TWO + "\n\n3,c.mp4,Cat,train,g\n", ":6", ["label 'Cat'"]),
        ("\n" + TWO, ":1", ["column 'video' is missing"]),
        (TWO + '"3\n3",c.mp4,Cat,train,g\n', ":5", ["label 'Cat'"]),
        (TWO + "3," + "x" * 140_000 + ",cat,train,g\n", ":4", ["field larger than field limit"]),
        (HEADER, "", ["holds no clip"]),
    ],
)
def test_wrong_tables_are_told_with_their_line(read: Callable, text: str, place: str, words: list[str]) -> None:
    with pytest.raises(UserError) as told:
        read(text)
    message = str(told.value)
    assert f"rows.csv{place}" in message and "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{'video': 'a'}", ["is not JSON", "one object per line"]),
        ("[1]", ["holds list, not an object"]),
        ("{", ["is not JSON"]),
        ("1" * 5000, ["is not JSON"]),
        ('{"video": ["a.mp4"]}', ["'video' is ['a.mp4'] but must be text"]),
        ('{"video": "a.mp4", "label": true}', ["'label' is True but must be text"]),
        ('{"video": "a\\u0000.mp4"}', ["leaves data.root"]),
        ('{"video": "c\\ud800.mp4", "split": "train"}', ["no valid Unicode"]),
        ('{"video": "c.mp4", "labels": "cat"}', ["unknown column 'labels'", "did you mean 'label'"]),
        ('{"id": "c", "label": "cat"}', ["column 'video' is missing"]),
    ],
)
def test_wrong_json_lines_are_told(read: Callable, line: str, words: list[str]) -> None:
    with pytest.raises(UserError) as told:
        read('{"id": "1", "video": "a.mp4", "label": "cat", "split": "train"}\n\n' + line, "rows.jsonl")
    message = str(told.value)
    assert "rows.jsonl:3" in message and all(word in message for word in words), message


def test_other_table_files_are_told(tmp_path: Path, read: Callable) -> None:
    for name, data, words in [
        ("rows.xlsx", b"PK", r"ends in '\.xlsx'; write one of \.csv"),
        ("rows.csv", "id,vidéo".encode("latin-1"), r"is not UTF-8 \(byte 6\)"),
    ]:
        with pytest.raises(UserError, match=words):
            read(data, name)
    with pytest.raises(UserError, match=r"none\.csv' does not exist; get the clips with: run me"):
        load_rows(make_card(tmp_path, "none.csv", how_to_get="run me"))
    with pytest.raises(UserError, match=r"nowhere' is no folder; correct the path"):
        load_rows(make_card(tmp_path / "nowhere"))


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


@pytest.mark.filterwarnings("ignore:1 files below")
def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, *(f"cat/{i}.mp4" for i in range(9)), *(f"fire alarm/day/{i}.MKV" for i in range(9)))
    touch(tmp_path, "cat/notes.txt", "cat/._0.mp4", ".cache/x.mp4", "card.yaml")
    rows = load_rows(make_card(tmp_path))
    assert len(rows) == 18 and {row["split"] for row in rows} == {"train", "validation", "test"}
    first = next(row for row in rows if row["id"] == "fire alarm/day/0.MKV")
    assert first["label"] == "fire alarm" and first["video"] == first["group"] == first["id"]
    check_inside(rows, tmp_path)
    (tmp_path / "cats").mkdir()
    with pytest.raises(UserError, match=r"cats' is no label of .*did you mean 'cat'"):
        load_rows(make_card(tmp_path))


def test_a_clip_beside_the_class_folders_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.mp4", "b.mp4", "._c.mp4", "notes.txt")
    with pytest.raises(UserError, match=r"1 clips lie directly in .*, e\.g\. 'b\.mp4', .* folder of its class"):
        load_rows(make_card(tmp_path))


def test_files_that_are_not_read_are_told(tmp_path: Path) -> None:
    touch(tmp_path, *[f"cat/{i}.mp4" for i in range(5)], "cat/old.rm", "cat/.DS_Store", "fire alarm/a.mkv")
    with pytest.warns(UserWarning, match=r"1 files below .* are not read as clips, e\.g\. 'cat/old\.rm'; .*\.mkv"):
        assert len(load_rows(make_card(tmp_path))) == 6


def test_a_share_beside_a_split_column_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(TWO)
    with pytest.warns(UserWarning, match=r"data\.test is ignored because the data say their split; leave it out"):
        load_rows(make_card(tmp_path, "rows.csv", test=0.3))


def test_empty_class_folders_hold_no_clip(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match="holds no clip; add rows"):
        load_rows(make_card(tmp_path))


def test_a_file_name_in_another_encoding_is_told(tmp_path: Path) -> None:
    touch(tmp_path, *(f"cat/{i}.mp4" for i in range(5)))
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/cat/\xe9.mp4")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(UserError, match=r"udce9.*no valid Unicode; rename the file"):
        load_rows(make_card(tmp_path))


def test_links_may_not_leave_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(tmp_path, "secret.mp4", "root/a.mp4", "outer/c.mp4")
    (root / "inside.mp4").symlink_to(root / "a.mp4")
    check_inside([{"video": "a.mp4"}, {"video": "inside.mp4"}], root)
    (root / "b.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "dir").symlink_to(tmp_path / "outer")
    for name in ("b.mp4", "dir/c.mp4"):
        with pytest.raises(UserError, match=f"1 clips lie outside the data root .*'{name}'"):
            check_inside([{"video": "a.mp4"}, {"video": name}], root)
    (tmp_path / "alias").symlink_to(root)
    check_inside([{"video": "a.mp4"}], tmp_path / "alias")


def test_fixed_batches_do_not_depend_on_the_order() -> None:
    rows = [{"id": f"{i:02}"} for i in range(7)]
    batches = fixed_batches(rows[::-1], 3, first=10)
    assert {number: len(batch) for number, batch in batches.items()} == {10: 3, 11: 3, 12: 1}
    assert [row["id"] for batch in batches.values() for row in batch] == [row["id"] for row in rows]
