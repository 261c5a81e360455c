"""JSON Lines: what is written is read again, half files never appear, and a killed log loses one batch at most."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbft_trl.data.jsonl import BatchLog, read_jsonl, write_json, write_jsonl
from rbft_trl.errors import UserError

SETTINGS = {"temperature": 0.8, "seed": 3, "ids": ["a", "b"]}
WRITER = """
import sys
from pathlib import Path
from rbft_trl.data.jsonl import BatchLog
log = BatchLog(Path(sys.argv[1]), {"seed": 3}, rank=0)
finished = log.load()
for batch in range(100_000):
    if batch not in finished:
        log.append(batch, [{"id": f"{batch}", "text": "x" * 500}])
        print(batch, flush=True)
"""
texts = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries({"id": texts, "text": texts, "n": st.none() | st.integers()})))
def test_what_is_written_is_read(tmp_path: Path, rows: list[dict[str, str | int | None]]) -> None:
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
    log = BatchLog(tmp_path / "rows.jsonl", SETTINGS, rank=0)
    log.clear()
    log.append(4, rows)
    assert log.load() == {4: rows}


def test_a_line_separator_in_a_text_is_no_new_line(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\u2029c\u0085d\x0ce\x1cf\rg\nh"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert (tmp_path / "rows.jsonl").read_bytes().count(b"\n") == 1
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a": 1}\n{"a": ', r"rows\.jsonl:2 is not JSON .*; delete the file and run its step again"),
        (b'{"a": 1}\n\n[1]\n', r"rows\.jsonl:3 holds list, not an object"),
        (b'{"a": "\xff"}\n', r"rows\.jsonl:1 is not JSON"),
        (b"\x00\x00\n", r"rows\.jsonl:1 is not JSON"),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=words):
        read_jsonl(tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match=r"none\.jsonl' does not exist; run the step that writes it first"):
        read_jsonl(tmp_path / "none.jsonl")


def test_nobody_is_told_to_delete_what_a_person_wrote(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_bytes(b'{"a": 1}\n{"a": ')
    with pytest.raises(UserError, match=r"mine\.jsonl:2 is not JSON .*; correct the line, or write the file anew"):
        read_jsonl(tmp_path / "mine.jsonl", by_user=True)
    with pytest.raises(UserError, match=r"none\.jsonl' does not exist; correct its path, or run the step that writes"):
        read_jsonl(tmp_path / "none.jsonl", by_user=True)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "metrics.json"
    write_json(path, {"ä": 1})
    with pytest.raises(TypeError):
        write_json(path, {"ä": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ä": 1}
    write_json(path, {"ä": "\udce9"})  # of a file name in another encoding
    assert json.loads(path.read_text(encoding="utf-8")) == {"ä": "\udce9"}


def test_a_log_of_several_ranks(tmp_path: Path) -> None:
    path = tmp_path / "out" / "rows[1].jsonl"
    logs = [BatchLog(path, SETTINGS, rank=rank) for rank in range(2)]
    assert logs[0].load() == {}
    for batch in range(5):
        logs[batch % 2].append(batch, [{"id": f"{batch}", "text": "a\u2028b"}])
    assert logs[0].load() == logs[1].load() == {i: [{"id": f"{i}", "text": "a\u2028b"}] for i in range(5)}
    logs[0].clear()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("other", [SETTINGS | {"seed": 4}, SETTINGS | {"top_p": 1.0}, {"seed": 3}])
def test_parts_of_other_settings_are_refused(tmp_path: Path, other: dict[str, object]) -> None:
    BatchLog(tmp_path / "rows.jsonl", SETTINGS, rank=1).append(0, [])
    with pytest.raises(UserError, match=r"rank1\.part' was begun with .* now it is .*; delete the \.part files"):
        BatchLog(tmp_path / "rows.jsonl", other, rank=0).load()


def test_tuples_in_settings_equal_their_lists(tmp_path: Path) -> None:
    BatchLog(tmp_path / "rows.jsonl", {"parts": ("llm",)}, rank=0).append(0, [])
    assert BatchLog(tmp_path / "rows.jsonl", {"parts": ("llm",)}, rank=0).load() == {0: []}


def test_a_log_cut_at_any_byte_goes_on(tmp_path: Path) -> None:
    """Whatever part of the file the disk has got, whole batches are kept and the next one is readable."""
    path = tmp_path / "rows.jsonl"
    log = BatchLog(path, SETTINGS, rank=0)
    for batch in range(2):
        log.append(batch, [{"id": f"ä{batch}"}])
    whole = log.part.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        log.part.write_bytes(whole[:cut])
        kept = {batch: [{"id": f"ä{batch}"}] for batch in range(2) if ends[batch + 1] <= cut}
        assert log.load() == kept
        log.append(7, [{"id": "new"}])
        assert log.load() == kept | {7: [{"id": "new"}]}
        assert log.part.read_bytes().startswith(whole[: ends[0]])


def test_a_killed_writer_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL three times; every batch that was reported is there, once, and none is damaged."""
    path = tmp_path / "rows.jsonl"
    reported: list[int] = []
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            reported += [int(writer.stdout.readline()) for _ in range(40)]
            os.kill(writer.pid, signal.SIGKILL)
            reported += [int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert len(reported) == len(set(reported)) >= 120
    finished = BatchLog(path, {"seed": 3}, rank=0).load()
    assert set(reported) <= set(finished)
    assert all(rows == [{"id": f"{batch}", "text": "x" * 500}] for batch, rows in finished.items())
    lines = [json.loads(line) for line in path.with_name("rows.jsonl.rank0.part").read_bytes().splitlines()[:-1]]
    assert sorted(line["batch"] for line in lines[1:]) == sorted({line["batch"] for line in lines[1:]})
