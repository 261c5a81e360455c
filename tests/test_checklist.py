"""Checklists: read from a card, answered, filtered item by item, written as rationales that stage 1 takes."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl import rationales
from rbft_trl.configs import DataArguments, ModelArguments, StageArguments
from rbft_trl.data.checklist import Question, read_checklist
from rbft_trl.data.jsonl import read_json, read_jsonl, write_jsonl
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from rbft_trl.evidence.checklist import compose, item_objection
from rbft_trl.evidence.verify import check_rationales
from rbft_trl.recipe import parse_recipe
from rbft_trl.stage_rows import training_rows
from rbft_trl.start import open_task
from tests.helpers import REPOSITORY, toy_recipe
from tests.test_verify import CARD as HOME

NAMES = ["cat", "dog"]
PATH = Path("card.yaml")
READ = """
- Is there an animal?
- question: "Does it bark?"
  yes: [dog]
  no: cat
- question: Which sound?
  answers: {meow: [cat], woof: [dog], silence: [cat, dog]}
- question: Day or night?
  answers: [day, night]
"""
WRONG = {
    "[]": "must be a list of questions",
    "a question": "must be a list of questions",
    "[3]": "question 1 of 'checklist' is 3; write the question in quotes",
    "[{question: a, answer: [b, c]}]": r"unknown key 'answer'; did you mean 'answers'\?",
    "[{yes: [cat]}]": "'question' is None but must be one line",
    "[{question: a, answers: [b, c], yes: [cat]}]": "'answers' stands beside yes or no",
    "[{question: a, answers: [b]}]": "must name two answers at least",
    "[{question: a, answers: [b, b]}]": "an answer stands twice",
    "[{question: a, answers: [b, 'b ']}]": r"an answer stands twice in \['b', 'b '\]; remove one",
    "[{question: a, answers: {b: [cat], 'b ': [dog]}}]": "an answer stands twice",
    "[{question: a, answers: [yes, 'yes']}]": "an answer stands twice",
    "[{question: a, answers: [[b], c]}]": r"the answer \['b'\] is no text",
    "[{question: a, answers: [1, 2]}]": "the answer 1 is no text; write it in quotes",
    "[{question: a, yes: [cats]}]": r"answer 'yes' speaks for 'cats', which is no label; did you mean 'cat'\?",
    "[{question: a, yes: [no]}]": r"answer 'yes' holds \[False\] but must list labels; put yes, no",
    "[a, a]": "the question 'a' stands in 'checklist' twice",
}


def test_a_checklist_as_people_write_it() -> None:
    questions = read_checklist(yaml.safe_load(READ), PATH, NAMES)
    assert [list(question.answers) for question in questions] == [
        ["yes", "no"], ["yes", "no"], ["meow", "woof", "silence"], ["day", "night"],
    ]  # fmt: skip
    assert questions[1].expected("dog") == {"yes"} and questions[1].expected("cat") == {"no"}
    assert questions[2].expected("cat") == {"meow", "silence"} and questions[0].expected("cat") == set()
    again = read_checklist([question.to_yaml() for question in questions], PATH, NAMES)
    assert again == questions


def test_one_side_of_yes_and_no_may_be_left_out() -> None:
    (question,) = read_checklist(yaml.safe_load("[{question: 'Is it so?', yes: [dog]}]"), PATH, NAMES)
    assert question.answers == {"yes": ("dog",), "no": ()}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_a_wrong_checklist_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^card.yaml: .*{message}"):
        read_checklist(yaml.safe_load(text), PATH, NAMES)


def test_the_card_keeps_its_checklist_and_its_fingerprint(tmp_path: Path) -> None:
    card = TaskCard.from_yaml(REPOSITORY / "recipes/tasks/toy.yaml", with_data=False)
    assert len(card.checklist) == 6 and card.checklist_prompts()[1] == "Which way do they move?"
    card.save(tmp_path)
    saved = TaskCard.from_yaml(tmp_path / "task_card.yaml")
    assert saved.checklist == card.checklist and saved.prompts == card.prompts
    without = dataclasses.replace(card, checklist=(), prompts=card.prompts | {"checklist": "$item?"})
    assert without.fingerprint() == card.fingerprint()  # training and prediction never see the checklist
    assert without.checklist_fingerprint() != card.checklist_fingerprint()
    default = dataclasses.replace(card, prompts=HOME.prompts | {"checklist": _package_prompt()})
    assert default.checklist_prompts()[0] == "Are they small or large?\nAnswer with one of: small, large."


def _package_prompt() -> str:
    return (REPOSITORY / "rbft_trl/data/prompts/checklist.txt").read_text(encoding="utf-8")


def test_prompts_in_the_card_are_checked(tmp_path: Path) -> None:
    raw = yaml.safe_load((REPOSITORY / "recipes/tasks/toy.yaml").read_text(encoding="utf-8")) | {"data": None}
    for prompts, message in [
        ({"checklists": "x"}, "'prompts' holds 'checklists'"),
        ({"checklist": "x"}, r"prompts.checklist: the placeholder \$item is missing"),
        ({"label": "$labels $itm"}, r"prompts.label: a '\$' stands for something unknown"),
        ({"label": 3}, "'prompts' holds 'label': 3"),
    ]:
        (tmp_path / "card.yaml").write_text(yaml.safe_dump(raw | {"prompts": prompts}), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            TaskCard.from_yaml(tmp_path / "card.yaml")


QUESTIONS = (Question("Small?", {"yes": ("normal",), "no": ("dorvan",)}), Question("Day?", {"yes": (), "no": ()}))
ASKED = dataclasses.replace(HOME, checklist=QUESTIONS)


def answered(label: str | None, *answers: tuple[str, float]) -> dict[str, Any]:
    items = [
        {"question": q.text, "answer": answer, "margin": margin}
        for q, (answer, margin) in zip(QUESTIONS, answers, strict=True)
    ]
    return {"id": "a", "label": label, "sample": 0, "shown": False, "prompt_fingerprint": "checklist", "items": items}


def test_items_are_filtered_one_by_one() -> None:
    rows = [
        answered("normal", ("yes", 3.0), ("no", 3.0)),
        answered("normal", ("no", 3.0), ("no", 0.5)),
        answered(None, ("no", 3.0), ("no", 0.5)),
        answered("fire alarm", ("no", 3.0), ("yes", 2.0)),
    ]
    made = compose(rows, ASKED, margin=1.0)
    assert [row["text"] for row in made] == [
        "Small? yes.\nDay? no.\nClassification: normal",
        "Classification: normal",
        "Small? no.",
        "Small? no.\nDay? yes.\nClassification: fire alarm",
    ]
    assert [item["reason"] for item in made[1]["items"]] == ["unexpected", "uncertain"]
    for mode in ("none", "label_match", "all"):
        checked = check_rationales(made, ASKED, mode=mode)
        assert [(row["verdict"], row["reason"]) for row in checked] == [
            ("kept", None), ("dropped", "no_item"), ("unlabelled", None), ("kept", None),
        ]  # fmt: skip
    assert [row["text"] for row in compose(made, ASKED, margin=0.0)][2] == "Small? no.\nDay? no."
    assert item_objection(rows[0]["items"][0], "dorvan", ASKED, margin=0) == "unexpected"


@pytest.fixture(scope="module")
def written(toy_set: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("checklist")
    file = folder / "rationales.jsonl"
    recipe = _recipe(folder, toy_set, output_file=file)
    return file, rationales.main([recipe])


def _recipe(folder: Path, toy_set: tuple[Path, Path], **changes: Any) -> str:
    generates = dict.fromkeys(("label_shown", "max_new_tokens", "num_samples", "temperature", "top_p"), ...)
    own = generates | {"writer": "checklist", "output_file": folder / "r.jsonl"} | changes
    return toy_recipe("rationales", folder, toy_set[0], REPOSITORY / "toy/base", **own)


def test_the_base_answers_and_stage_1_takes_it(
    written: tuple[Path, list[dict[str, Any]]], toy_set: tuple[Path, Path], recwarn: pytest.WarningsRecorder
) -> None:
    file, rows = written
    truth = {row["id"]: row for row in read_jsonl(toy_set[1] / "attributes.jsonl")}
    assert len(rows) == 16 + 8 and len(read_jsonl(file)) == 24  # 2 shots of 8 classes, and the pool
    sizes = [(row["items"][0]["answer"], truth[row["id"]]["size"]) for row in rows]
    assert sum(said == true for said, true in sizes) >= 20
    right = next(row for row in rows if row["label"] and row["items"][0]["reason"] is None)
    assert right["text"].startswith(f"Are they small or large? {truth[right['id']]['size']}.\n")
    assert right["text"].endswith(f"\nClassification: {right['label']}") and right["verdict"] == "kept"
    data = DataArguments(task=str(toy_set[0]), shots=2, definitions=False, min_pixels=3136, max_pixels=3136)
    task = open_task(data, ModelArguments(model_name_or_path=str(REPOSITORY / "toy/base")))
    used = training_rows(task, StageArguments(init="base", target="rationale", rationales=str(file)))
    assert len(used) == sum(row["verdict"] != "dropped" for row in rows)
    assert not [w for w in recwarn if "another prompt" in str(w.message)]


def test_another_margin_needs_no_model(written: tuple[Path, list[dict[str, Any]]], toy_set: tuple[Path, Path]) -> None:
    file, rows = written
    recipe = _recipe(file.parent, toy_set, output_file=file, checklist_margin=2.0)
    stricter = rationales.main([recipe, "--use_pool", "true"])
    dropped = [item for row in stricter for item in row["items"] if item["reason"] == "uncertain"]
    assert dropped and all(item["margin"] < 2 for item in dropped)
    assert [[i["margin"] for i in row["items"]] for row in stricter] == [
        [i["margin"] for i in r["items"]] for r in rows
    ]
    assert read_json(file.with_suffix(".summary.json"))["checklist_margin"] == 2.0
    free = toy_recipe("rationales", file.parent, toy_set[0], REPOSITORY / "toy/base", output_file=file)
    with pytest.raises(UserError, match="was made with other settings"):
        rationales.main([free])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 2}, "'num_samples' is 2 but writer: checklist generates no text"),
        ({"temperature": 0.3}, "'temperature' is 0.3 but writer: checklist"),
        ({"label_shown": "hint"}, "'label_shown' is 'hint' but writer: checklist"),
        ({"rebuild": "words"}, "'rebuild' is 'words' but writer: checklist"),
        ({"server_url": "http://localhost:1/v1"}, "leave server_url out"),
        ({"writer": "free", "checklist_margin": 1.0}, "'checklist_margin' is 1 but writer is free"),
    ],
)
def test_settings_that_a_checklist_ignores_are_refused(
    changes: dict[str, Any], message: str, toy_set: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        rationales.main([_recipe(tmp_path, toy_set, **changes)])


def test_a_card_without_a_checklist_is_told(toy_set: tuple[Path, Path], tmp_path: Path) -> None:
    raw = yaml.safe_load(toy_set[0].read_text(encoding="utf-8"))
    del raw["checklist"]
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    with pytest.raises(UserError, match="'checklist' is missing but writer is checklist"):
        rationales.main([_recipe(tmp_path, (tmp_path / "card.yaml", toy_set[1]))])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rebuild_margin": 1.0}, "'rebuild_margin' is 1 but rebuild is none"),
        ({"rebuild": "words", "rebuild_margin": -1.0}, "'rebuild_margin' is -1.0 but must be a number from 0"),
        ({"min_agreement": 1.5, "num_samples": 2}, "'min_agreement' is 1.5 but must be from 0 to 1"),
        ({"min_agreement": 0.5}, "'min_agreement' is 0.5 but num_samples is 1"),
        ({"rebuild": "words", "checks": "none"}, "checks is none but rebuild or min_agreement is set"),
        ({"rebuild": "model", "server_url": "http://localhost:1/v1"}, "use rebuild: words"),
    ],
)
def test_thresholds_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str, toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe("rationales", tmp_path, toy_set[0], smoke_base, output_file=tmp_path / "r.jsonl", **changes)
    with pytest.raises(UserError, match=message):
        rationales.main([recipe])


def test_stage_0_stores_what_the_base_concludes_from_the_text(toy_set: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    own = {"output_file": file, "label_shown": "hint", "num_samples": 2, "rebuild": "model"}
    recipe = toy_recipe("rationales", tmp_path, toy_set[0], REPOSITORY / "toy/base", **own)
    with pytest.raises(UserError, match="has no kept rationale"):  # an untaught base rebuilds few made-up names
        rationales.main([recipe, "--rebuild_margin", "50"])
    rows = read_jsonl(file)
    labelled = [row for row in rows if row["label"]]
    assert all(isinstance(row["rebuilt_model"]["margin"], float) for row in labelled) and len(labelled) == 32
    assert {row["reason"] for row in labelled} <= {"no_evidence", "argues_other"}
    assert not any("rebuilt_model" in row for row in rows if row["label"] is None)
    assert all("agreement" in row for row in rows)
    with contextlib.suppress(UserError):  # one other clip per class is little to learn from: a class may be left empty
        rationales.main([recipe, "--rebuild", "words"])
    assert all("rebuilt_words" in row for row in read_jsonl(file) if row["label"])
    write_jsonl(file, [{k: v for k, v in row.items() if k != "rebuilt_model"} for row in rows])
    with pytest.raises(UserError, match="written without 'rebuild: model'"):
        rationales.main([recipe])


def test_the_files_of_a_recipe_with_every_check_parse(tmp_path: Path) -> None:
    from rbft_trl.rationale_config import RationaleArguments

    (tmp_path / "r.yaml").write_text(
        "output_file: r.jsonl\nchecks: all\nrebuild: words\nrebuild_margin: 0.5\nmin_agreement: 0.5\nnum_samples: 4\n"
    )
    (args,) = parse_recipe([str(tmp_path / "r.yaml")], RationaleArguments)
    assert rationales.limits_of(args) == rationales.Limits("words", 0.5, 0.5)
