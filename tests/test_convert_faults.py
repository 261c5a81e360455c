"""Annotations that contradict themselves, clips that are not there, and wrong use of rbft_trl/convert.py."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from rbft_trl import convert
from rbft_trl.errors import UserError
from tests import miniatures
from tests.miniatures import Builder, Make, convert_small, copy_of, notes, rows_of


def replaced(b: Builder, name: str, old: str, new: str) -> None:
    path = b.annotations / name
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())


def hate_row(b: Builder, split: str, *cells: str) -> None:
    path = b.annotations / f"English_data/annotation/{split}.tsv"
    path.write_text(path.read_text() + "\t".join([*cells, "[]", "[]", "[]"]) + "\n")


def spoil(name: str, b: Builder) -> None:
    """Plants what each annotation can say twice."""
    if name == "smarthome":
        replaced(b, "Code/Annotation_vad_1203.csv", ",Normal,", ",Abnormal,")
    elif name == "multihateclip_en":
        hate_row(b, "test", "-trainNorm0", "Normal", "['Normal', 'Counter Narrative']")
        hate_row(b, "train", "-trainOffe1", "Hateful", "['Offensive', 'Offensive', 'Hateful']")
        hate_row(b, "train", "-trainHate0", "Hateful", "['Hateful', 'Hateful']")
        replaced(b, "English_data/text.json", '"label": "Normal"', '"label": "Offensive"')
    elif name == "ucf101":
        replaced(b, "trainlist01.txt", "g08_c01.avi 1", "g08_c01.avi 3")
        replaced(b, "testlist01.txt", "YoYo/v_YoYo_g01", "Juggling/v_Juggling_g01")
    elif name == "hmdb51":
        replaced(b, "testTrainMulti_7030_splits/climb_test_split1.txt", "Jumper_2_climb_", "Jumper_2_climb_stairs_")
    elif name == "kinetics400":
        replaced(b, "val.csv", ",val,", ",train,")
        replaced(b, "test.csv", "abseiling", "air drumming")
    elif name == "ssv2":
        replaced(b, "labels/train.json", "holding a cup", "holding a dog")
        replaced(b, "labels/validation.json", "Putting [something] onto", "Putting [something] under")
    else:
        fine = pickle.loads((path := b.annotations / "FineDiving_fine-grained_annotation.pkl").read_bytes())
        fine[next(iter(fine))]["action_type"] = "109c"
        path.write_bytes(pickle.dumps(fine))
        path = b.annotations / "train_split.pkl"
        path.write_bytes(pickle.dumps([*pickle.loads(path.read_bytes()), ("nowhere", 0)]))


PLANTED = {
    "smarthome": {"two_labels": ["smartbench_0001"]},
    "multihateclip_en": {
        "two_splits": ["-trainNorm0"], "contradicting_rows": ["-trainOffe1"], "listed_twice": ["-trainHate0"],
        "votes": ["-trainOffe1"], "two_labels": ["-trainNorm0", "-trainOffe1", "-trainNorm0"],
    },
    "ucf101": {
        "two_labels": ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"],
        "unknown_class": ["Juggling/v_Juggling_g01_c01.avi"],
    },
    "hmdb51": {"two_labels": ["Jumper_2_climb_stairs_u_nm_np1_ba_goo_1.avi"]},
    "kinetics400": {"two_splits_said": ["-val_0xY0A_000007_000017"], "unknown_class": ["-test_0xY0A_000007_000017"]},
    "ssv2": {"two_labels": ["101", "108"], "unknown_class": ["108"]},
    "finediving": {"two_labels": ["FINADivingWorldCup2021_Men3m_final_r0/0"], "unknown_clip": ["nowhere/0"]},
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_an_annotation_that_contradicts_itself_is_told(
    name: str, small_sets: dict[str, Builder], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    b = copy_of(small_sets[name], tmp_path)
    spoil(name, b)
    more = ["--missing", "leave_out"] if name == "hmdb51" else []
    report = convert_small(name, b, tmp_path / "out", *more)
    found = notes(report)
    for kind, items in PLANTED[name].items():
        if kind == "two_labels" and name == "multihateclip_en":
            assert set(found[kind]) == set(items)
            continue
        assert found[kind] == items, kind
    said = capsys.readouterr().err
    assert all(f"note: {kind}: {len(items)} " in said for kind, items in found.items())
    if name == "multihateclip_en":  # the test keeps its clip, and the clip with two labels is nowhere
        where = {row["video"].split("/")[0]: row["split"] for row in rows_of(report)}
        assert where["-trainNorm0"] == "test" and "-trainOffe1" not in where


def test_missing_clips_stop_or_are_left_out(small_sets: dict[str, Builder], tmp_path: Path, make_clip: Make) -> None:
    b = copy_of(small_sets["ucf101"], tmp_path)
    replaced(b, "trainlist01.txt", "g08", "g18")
    for group in ("g08", "g09", "g10"):
        replaced(b, "trainlist01.txt", f"YoYo/v_YoYo_{group}", f"YoYo/v_YoYo_x{group}")
    with pytest.raises(
        UserError, match=r"4 of 16 clips .* are not below .*'ApplyEyeMakeup/v_.*_g18_c01.avi'.*leave_out"
    ):
        convert_small("ucf101", b, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = convert_small("ucf101", b, tmp_path / "out", "--missing", "leave_out")
    assert len(notes(report)["missing"]) == 4 and notes(report)["empty_classes"] == ["yo yo"]
    assert report["cards"][0]["classes"] == 3 and report["cards"][0]["clips"]["test"] == 3
    b.clips = tmp_path
    with pytest.raises(UserError, match=r"16 of 16 clips .* get them$"):
        convert_small("ucf101", b, tmp_path / "none", "--missing", "leave_out")


LIST = "trainlist01.txt"


def nothing(_: Builder) -> None:
    """The official files as they are."""


def write(name: str, text: str | bytes) -> Callable[[Builder], object]:
    return lambda b: (b.annotations / name).write_bytes(text if isinstance(text, bytes) else text.encode())


WRONG: dict[str, tuple[list[str], Callable[[Builder], object], str]] = {
    "unknown name": (["ucf11"], nothing, "'ucf11' is no known data set; did you mean 'ucf101'"),
    "no such folder": (["ucf101", "--clips", "nowhere"], nothing, "--clips 'nowhere' is no folder"),
    "another data set": (["hmdb51"], nothing, "holds no <class>_test_split1.txt, an official file of HMDB51"),
    "no index": (
        ["ucf101"],
        lambda b: (b.annotations / "classInd.txt").unlink(),
        "holds no classInd.txt, an official file of UCF101",
    ),
    "no list of the fold": (["ucf101", "--fold", "2"], nothing, "holds no trainlist02.txt"),
    "wrong fold": (["ucf101", "--fold", "4"], nothing, "--fold is '4' but ucf101 has folds 1, 2 and 3"),
    "fold of none": (["ssv2", "--fold", "1"], nothing, "ssv2 has no folds; leave it out"),
    "missing as what": (["ucf101", "--missing", "skip"], nothing, "'skip' but must be stop or leave_out"),
    "revision alone": (["ucf101", "--revision", "v1"], nothing, "belongs to --dataset"),
    "other columns": (["kinetics400"], write("train.csv", "a,b\n1,2\n"), "the column 'youtube_id' is missing"),
    "absolute path": (["ucf101"], write(LIST, "YoYo//etc/passwd.avi 4\n"), f"{LIST}:1: the clip .* is absolute"),
    "path out of the clips": (["ucf101"], write(LIST, "YoYo/../../a.avi 4\n"), f"{LIST}:1: the clip .* leaves its"),
    "other encoding": (["ucf101"], write(LIST, b"YoYo/\xe9.avi 4\n"), f"{LIST}:1 is not UTF-8"),
    "classes that become one": (
        ["ucf101"],
        write("classInd.txt", "1 TaiChi\n2 tai_chi\n"),
        "the classes 'TaiChi' and 'tai_chi' are both 'tai chi'",
    ),
    "index without numbers": (["ucf101"], write("classInd.txt", "TaiChi\n"), "classInd.txt:1 is no 'number Class'"),
    "halves of what": (["ucf101", "--base_to_novel", "often"], nothing, "'often' is neither 'frequent' nor a seed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_one_sentence(name: str, small_sets: dict[str, Builder], tmp_path: Path) -> None:
    argv, change, words = WRONG[name]
    b = copy_of(small_sets["ucf101"], tmp_path)
    change(b)
    folders = ["--annotations", str(b.annotations), "--output", str(tmp_path / "out")]
    folders += [] if "--clips" in argv else ["--clips", str(b.clips)]
    with pytest.raises(UserError, match=words) as told:
        convert.main([*argv, *folders])
    assert "\n" not in str(told.value)
    assert not list(tmp_path.glob("out/*.yaml")) and not list(tmp_path.glob("out/*.csv"))


def test_a_file_that_a_spreadsheet_would_run_is_only_a_name(tmp_path: Path, make_clip: Make) -> None:
    b = miniatures.ucf101(tmp_path, make_clip)
    name = "=cmd|' \"x\",1;'!A1"
    b.clip(f"YoYo/{name}.avi", codec="mpeg4")
    path = b.annotations / "trainlist01.txt"
    path.write_text(path.read_text() + f"YoYo/{name.replace(' ', '_')}.avi 4\n")
    (b.clips / f"YoYo/{name}.avi").rename(b.clips / f"YoYo/{name.replace(' ', '_')}.avi")
    videos = {row["video"] for row in rows_of(convert_small("ucf101", b, tmp_path / "out"))}
    assert f"YoYo/{name.replace(' ', '_')}.avi" in videos and len(videos) == 17


def test_a_file_whose_name_is_no_text_and_a_link_that_goes_round(
    small_sets: dict[str, Builder], tmp_path: Path
) -> None:
    b = copy_of(small_sets["multihateclip_en"], tmp_path)
    b.clips = tmp_path / "clips"
    for file in small_sets["multihateclip_en"].clips.rglob("*.mp4"):
        (b.clips / file.parent.name).mkdir(parents=True)
        (b.clips / file.parent.name / "a.mp4").write_bytes(file.read_bytes())
    (b.clips / "round").symlink_to(b.clips)
    assert notes(convert_small("multihateclip_en", b, tmp_path / "out")) == {}
    odd = b.clips / "-testHate0"
    (odd / "a.mp4").rename(odd / "\udcff.mp4")
    with pytest.raises(
        UserError, match=r"udcff\.mp4' of the clip '-testHate0/\*' has no valid Unicode name; rename it"
    ):
        convert_small("multihateclip_en", b, tmp_path / "other")


def test_nothing_is_overwritten(small_sets: dict[str, Builder], tmp_path: Path) -> None:
    convert_small("ucf101", small_sets["ucf101"], tmp_path / "out")
    with pytest.raises(UserError, match=r"ucf101.yaml' exists; name another --output, or delete it"):
        convert_small("ucf101", small_sets["ucf101"], tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "words"),
    [
        ("ssv2", "labels/labels.json", '"0"', '"²"', "no number"),
        (
            "ssv2",
            "labels/train.json",
            '"placeholders": [',
            '"placeholders": 5, "other": [',
            "'placeholders' is no list",
        ),
        ("ucf101", "classInd.txt", "1 ", "² ", "no 'number Class'"),
    ],
)
def test_odd_official_files_are_told_in_one_sentence(
    name: str, file: str, old: str, new: str, words: str, small_sets: dict[str, Builder], tmp_path: Path
) -> None:
    b = copy_of(small_sets[name], tmp_path)
    replaced(b, file, old, new)
    with pytest.raises(UserError, match=words):
        convert_small(name, b, tmp_path / "out")


@pytest.mark.parametrize("between", ["  ", "\t"])
def test_blanks_between_path_and_number_are_no_contradiction(
    between: str, small_sets: dict[str, Builder], tmp_path: Path
) -> None:
    b = copy_of(small_sets["ucf101"], tmp_path)
    path = b.annotations / "trainlist01.txt"
    path.write_text(path.read_text().replace(".avi ", f".avi{between}"))
    assert "two_labels" not in notes(convert_small("ucf101", b, tmp_path / "out"))


def test_one_file_under_two_names_is_in_two_splits(small_sets: dict[str, Builder], tmp_path: Path) -> None:
    b = copy_of(small_sets["ucf101"], tmp_path)
    first = (b.annotations / "trainlist01.txt").read_text().split()[0]
    path = b.annotations / "testlist01.txt"
    path.write_text(path.read_text() + first.replace("/", "//") + "\n")
    report = convert_small("ucf101", b, tmp_path / "out")
    assert first in str(notes(report)["two_splits"])
    assert len({row["video"] for row in rows_of(report)}) == len(rows_of(report))


TESTS = {"ucf101": "testlist01.txt", "multihateclip_en": "English_data/annotation/test.tsv", "kinetics400": "val.csv"}
TESTS |= {"ssv2": "labels/test-answers.csv", "finediving": "test_split.pkl"}


@pytest.mark.parametrize("name", [*TESTS, "hmdb51"])
@pytest.mark.parametrize("left", [0, 1])
def test_an_official_test_list_without_two_classes_is_told(
    name: str, left: int, small_sets: dict[str, Builder], tmp_path: Path
) -> None:
    b = copy_of(small_sets[name], tmp_path)
    if name == "hmdb51":
        files = sorted((b.annotations / "testTrainMulti_7030_splits").glob("*_test_split1.txt"))
        for file in files[left:]:
            file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.endswith(" 2 \n")))
    else:
        file = b.annotations / TESTS[name]
        shorten(file, left)
    if name == "kinetics400":  # validation is the test where the test has no labels
        shorten(b.annotations / "test.csv", 0)
    words = (
        rf"the official test list '.*{'<class>_test_split1.txt' if name == 'hmdb51' else file.name}' yields {left} "
    )
    with pytest.raises(UserError, match=f"{words}clips of {left} classes, and a test needs two classes; take the"):
        convert_small(name, b, tmp_path / "out", *(["--missing", "leave_out"] if name == "hmdb51" else []))
    assert not (tmp_path / "out").exists()


def shorten(file: Path, left: int) -> None:
    """The first `left` entries of an official list."""
    if file.suffix == ".pkl":
        file.write_bytes(pickle.dumps(pickle.loads(file.read_bytes())[:left]))
    else:
        lines = file.read_text(encoding="utf-8-sig").splitlines(keepends=True)
        head = file.suffix != ".txt" and file.name != "test-answers.csv"
        file.write_text("".join(lines[: left + head]))
