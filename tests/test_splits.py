"""Splits: a partition that no group crosses, shares that are met, draws by seed, and leaks that are found."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from rbft_trl.data.source import SPLITS, DataSource
from rbft_trl.data.splits import assign_splits, check_contents, check_splits, draw_shots
from rbft_trl.data.task import TaskCard
from rbft_trl.data.video import file_hash
from rbft_trl.errors import UserError

Row = dict[str, Any]


def make_rows(*counts: int, pool: int = 0, per_group: int = 1) -> list[Row]:
    """`counts[i]` clips of class i, `pool` clips without a label; `per_group` neighbours share a source."""
    labels = [name for name, count in zip("abcdefgh", counts, strict=False) for _ in range(count)]
    rows = []
    for i, label in enumerate([*labels, *[None] * pool]):
        rows.append({"id": f"{i:05}", "video": f"{i:05}.mp4", "label": label, "split": None})
        rows[-1]["group"] = f"{label}{i // per_group}" if label else f"pool{i}"
    return rows


def count(rows: list[Row]) -> dict[tuple[str | None, str], int]:
    return Counter((row["label"], row["split"]) for row in rows)


@pytest.mark.parametrize(
    ("clips", "train", "validation", "test"),
    [
        *[(3, 1, 1, 1), (4, 2, 1, 1), (5, 3, 1, 1), (6, 4, 1, 1), (7, 5, 1, 1), (8, 6, 1, 1), (9, 6, 1, 2)],
        *[(10, 7, 1, 2), (12, 8, 2, 2), (20, 14, 3, 3), (100, 70, 15, 15), (1000, 700, 150, 150)],
    ],
)
def test_shares_of_every_class_down_to_three_clips(clips: int, train: int, validation: int, test: int) -> None:
    for seed in range(3):
        found = count(assign_splits(make_rows(*[clips] * 4), validation=0.15, test=0.15, seed=seed))
        for label in "abcd":
            assert [found[label, split] for split in SPLITS] == [train, validation, test]


def test_rare_classes_keep_their_share() -> None:
    found = count(assign_splits(make_rows(400, 40, 10, 3, 1), validation=0.1, test=0.2, seed=1))
    assert [found["a", split] for split in SPLITS] == [280, 40, 80]
    assert [found["b", split] for split in SPLITS] == [28, 4, 8]
    assert [found["c", split] for split in SPLITS] == [7, 1, 2]
    assert [found["d", split] for split in SPLITS] == [1, 1, 1]
    assert [found["e", split] for split in SPLITS] == [1, 0, 0]


def test_a_large_group_goes_where_there_is_room() -> None:
    rows = make_rows(100)
    for row in rows[:65]:
        row["group"] = "one camera"
    for seed in range(5):  # wherever the seed puts it in the order
        out = assign_splits(rows, validation=0.15, test=0.15, seed=seed)
        assert [count(out)["a", split] for split in SPLITS] == [70, 15, 15]
        assert {row["split"] for row in out[:65]} == {"train"}


def test_groups_of_several_clips_meet_the_shares() -> None:
    for seed in range(5):
        found = count(assign_splits(make_rows(200, 120, per_group=4), validation=0.15, test=0.15, seed=seed))
        for label, clips in (("a", 200), ("b", 120)):
            for split, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
                assert abs(found[label, split] - share * clips) <= 4, (label, split)


def test_groups_with_a_pool_clip_stay_in_train() -> None:
    rows = make_rows(40, 40, pool=30)
    for row in rows[:20]:
        row["group"] = "pool85"  # a source of the pool
    rows[85]["group"] = "pool85"
    out = assign_splits(rows, validation=0.2, test=0.2, seed=0)
    assert {row["split"] for row in out if row["label"] is None or row["group"] == "pool85"} == {"train"}
    found = count(out)
    assert [found["a", split] for split in SPLITS] == [24, 8, 8] == [found["b", split] for split in SPLITS]


def test_what_must_stay_in_train_counts_before_the_rest_is_dealt() -> None:
    rows = make_rows(40, pool=20)
    for i, row in enumerate(rows):
        row["group"] = f"of four {i // 4}" if i < 20 else f"with the pool {i % 20}"
    for seed in range(5):
        found = count(assign_splits(rows, validation=0.2, test=0.2, seed=seed))
        assert [found["a", split] for split in SPLITS] == [24, 8, 8]


@pytest.mark.parametrize(
    ("clips", "shares", "words"),
    [
        (1, (0.15, 0.15), r"data\.test is 0\.15 but 2 clips in 2 groups leave none for it"),
        (2, (0.0, 0.2), r"data\.test is 0\.2 but 4 clips"),
        (9, (0.5, 0.5), r"data\.validation 0\.5 and data\.test 0\.5 leave nothing to train on"),
    ],
)
def test_shares_that_cannot_be_met_are_told(clips: int, shares: tuple[float, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        assign_splits(make_rows(clips, clips), validation=shares[0], test=shares[1], seed=0)


def test_a_split_without_a_share_is_empty() -> None:
    assert {row["split"] for row in assign_splits(make_rows(9), validation=0, test=0, seed=0)} == {"train"}
    assert {row["split"] for row in assign_splits(make_rows(9), validation=0, test=0.3, seed=0)} == {"train", "test"}


row_lists = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 12)), min_size=1, max_size=60
).map(
    lambda drawn: [
        {"id": f"{i:03}", "video": f"{i}.mp4", "label": label, "split": None, "group": f"g{group}"}
        for i, (label, group) in enumerate(drawn)
    ]
)


@settings(max_examples=150)
@given(
    rows=row_lists,
    validation=st.sampled_from([0, 0.1, 0.15, 0.3]),
    test=st.sampled_from([0, 0.15, 0.5]),
    seed=st.integers(0, 9),
)
def test_splits_are_a_partition_by_groups_for_any_order(
    rows: list[Row], validation: float, test: float, seed: int
) -> None:
    try:
        out = assign_splits(rows, validation=validation, test=test, seed=seed)
    except UserError:
        reject()  # too few groups for every split; that is told, see above
    assert [row["id"] for row in out] == [row["id"] for row in rows]
    assert all(row["split"] in SPLITS for row in out) and all(row["split"] is None for row in rows)
    assert len({(row["group"], row["split"]) for row in out}) == len({row["group"] for row in out})
    assert all(row["split"] == "train" for row in out if row["label"] is None)
    shuffled = random.Random(seed).sample(rows, len(rows))
    again = {row["id"]: row["split"] for row in assign_splits(shuffled, validation=validation, test=test, seed=seed)}
    assert again == {row["id"]: row["split"] for row in out}


@settings(max_examples=100)
@given(counts=st.lists(st.integers(3, 60), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_single_clips_miss_their_shares_by_one_at_most(counts: list[int], seed: int) -> None:
    found = count(assign_splits(make_rows(*counts), validation=0.15, test=0.15, seed=seed))
    for label, clips in zip("abcde", counts, strict=False):
        for split, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
            assert found[label, split] >= 1
            assert abs(found[label, split] - share * clips) <= 1.2


def test_another_seed_deals_anew() -> None:
    seen = set()
    for seed in range(5):
        out = assign_splits(make_rows(30, 30), validation=0.15, test=0.15, seed=seed)
        seen.add(tuple(row["id"] for row in out if row["split"] == "test"))
    assert len(seen) == 5


def test_draws_of_shots() -> None:
    rows = assign_splits(make_rows(40, 40, 40, pool=20), validation=0.15, test=0.15, seed=0)
    assert draw_shots(rows, None, seed=0) == rows
    drawn = [draw_shots(rows, 4, seed=seed) for seed in range(5)]
    for rows_of_draw in drawn:
        found = count(rows_of_draw)
        assert [found[label, "train"] for label in "abc"] == [4, 4, 4] and found[None, "train"] == 20
        held_out = [row for row in rows_of_draw if row["split"] != "train"]
        assert held_out == [row for row in rows if row["split"] != "train"]
        assert all(row in rows for row in rows_of_draw)
    kept = [tuple(r["id"] for r in draw if r["split"] == "train" and r["label"]) for draw in drawn]
    assert len(set(kept)) == 5
    again = draw_shots(random.Random(1).sample(rows, len(rows)), 4, seed=2)
    assert {row["id"] for row in again} == {row["id"] for row in drawn[2]}


def test_more_shots_than_clips_are_told() -> None:
    rows = [row | {"split": "train"} for row in make_rows(9, 3)]
    assert len(draw_shots(rows, 3, seed=0)) == 6
    with pytest.raises(UserError, match="shots is 4 but class 'b' has 3 training clips; lower shots or add clips"):
        draw_shots(rows, 4, seed=0)


def make_card(root: Path) -> TaskCard:
    labels = {"a": "the first", "b": "the second"}
    return TaskCard("t", labels, "?", "r", ("x",), {}, DataSource(root=root), root / "card.yaml")


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Two classes in three splits, one file each, all of one size."""
    out = []
    for i, split in enumerate(["train", "train", "test", "test", "validation", "validation"]):
        out.append({"id": f"{i}", "video": f"{i}.mp4", "label": "ab"[i % 2], "split": split, "group": f"g{i}"})
        (tmp_path / f"{i}.mp4").write_bytes(f"clip {i}".encode())
    return out


def hashes(rows: list[Row], root: Path) -> dict[str, dict[str, str]]:
    return {row["id"]: {"file": file_hash(root / row["video"])} for row in rows}


def test_clean_splits_pass(rows: list[Row], tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    check_splits(rows, make_card(tmp_path))
    check_contents(rows, hashes(rows, tmp_path))
    assert not recwarn.list


def test_a_group_in_two_splits_is_a_leak(rows: list[Row], tmp_path: Path) -> None:
    rows[2]["group"] = "g0"
    with pytest.raises(UserError, match=r"leak: group 'g0' has '0' in train and '2' in test; one source"):
        check_splits(rows, make_card(tmp_path))


@pytest.mark.parametrize("how", ["copy", "symlink", "hardlink"])
def test_one_file_in_two_splits_is_a_leak(rows: list[Row], tmp_path: Path, how: str) -> None:
    other = tmp_path / "4.mp4"
    other.unlink()
    if how == "copy":
        other.write_bytes((tmp_path / "0.mp4").read_bytes())
    elif how == "symlink":
        other.symlink_to(tmp_path / "0.mp4")
    else:
        other.hardlink_to(tmp_path / "0.mp4")
    with pytest.raises(UserError, match=r"leak: '0\.mp4' \(train\) and '4\.mp4' \(validation\) are the same file"):
        check_contents(rows, hashes(rows, tmp_path))


def test_one_file_with_two_labels_is_told(rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "1.mp4").write_bytes((tmp_path / "0.mp4").read_bytes())
    with pytest.raises(UserError, match="are the same file with labels 'a' and 'b'; keep the right one"):
        check_contents(rows, hashes(rows, tmp_path))
    pool = rows[1] | {"label": None}  # a labelled clip that is in the pool, too, contradicts nothing
    some = [rows[0], pool, rows[3] | {"split": "train"}]
    check_contents(some, hashes(some, tmp_path))


def test_an_empty_class_is_told(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"class 'b' of .*card\.yaml has no labelled training clip; add some"):
        check_splits([row for row in rows if row["id"] != "1"], make_card(tmp_path))
    with pytest.warns(UserWarning, match="class 'b' has no test clip"):
        check_splits([row for row in rows if row["id"] != "3"], make_card(tmp_path))
