"""Texts that stand in for rationales: what each control keeps and destroys, and that stage 1 takes them."""

import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from rbft_trl import sft, texts
from rbft_trl.compare_config import CompareArguments
from rbft_trl.configs import DataArguments
from rbft_trl.data.jsonl import read_json, read_jsonl
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from rbft_trl.evidence import controls
from rbft_trl.recipe import parse_recipe
from rbft_trl.start import Task, open_task
from rbft_trl.stopping import Stopped
from tests.helpers import REPOSITORY, base_arguments, toy_recipe

CARD = TaskCard.from_yaml(REPOSITORY / "recipes/tasks/toy.yaml", with_data=False)


def sample(name: str, label: str | None, text: str, **more: Any) -> dict[str, Any]:
    verdict = "unlabelled" if label is None else "kept"
    return {"id": name, "video": name, "label": label, "sample": 0, "text": text, "verdict": verdict} | more


OWN = [
    sample("a", "dorvan", "one small red circle moving left slowly.\nClassification: dorvan"),
    sample("b", "dorvan", "two small blue squares moving left.\nClassification: miloren", verdict="dropped"),
    sample("c", None, "a large thing moving up.\nClassification: tishem"),
]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "b", "text": ', r":4 is not JSON .*; correct the line, or write the file anew"),
        ('{"text": "a thing"}', r":4: 'id' is None but must be the id of a clip, as text"),
        ('{"id": 7, "text": "a thing"}', r":4: 'id' is 7 but must"),
        ('{"id": "a", "text": "a thing"}', r":4: clip 'a' stands twice; remove one"),
    ],
)
def test_a_file_of_true_descriptions_is_the_users(line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "truth.jsonl").write_text(f'{{"id": "a", "text": "one"}}\n\n\n{line}\n')
    with pytest.raises(UserError, match=rf"truth\.jsonl{words}"):
        texts.read_truth(str(tmp_path / "truth.jsonl"))


def test_the_docs_show_a_file_of_true_descriptions_and_its_command(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/compare.md").read_text(encoding="utf-8")
    section = page.partition("## An oracle of your own\n")[2].partition("\n## ")[0]
    (tmp_path / "truth.jsonl").write_text(section.partition("```json\n")[2].partition("```")[0])
    truth = texts.read_truth(str(tmp_path / "truth.jsonl"))
    rows = [{"id": name, "video": name, "label": label} for name, label in zip(truth, ("dorvan", None), strict=True)]
    made = controls.oracle_samples(rows, {name: row["text"] for name, row in truth.items()}, CARD)
    assert [s["verdict"] for s in made] == ["kept", "unlabelled"] and made[0]["text"].endswith(
        "Classification: dorvan"
    )
    script, *words = shlex.split(section.partition("```bash\npython ")[2].partition("```")[0].replace("\\\n", ""))
    (args,) = parse_recipe([str(REPOSITORY / words[0]), *words[1:]], CompareArguments)
    assert script == "rbft_trl/compare.py" and "oracle" in args.arms and args.oracle_texts
    assert "docs/compare.md#an-oracle-of-your-own" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_a_true_description_is_text() -> None:
    rows = [{"id": "a", "video": "v", "label": None}]
    with pytest.raises(UserError, match="the text of clip 'a' is 7; write it in quotes"):
        controls.oracle_samples(rows, {"a": 7}, CARD)


def test_permuted_words_are_the_same_words_in_another_order() -> None:
    made = {s["id"]: s["text"] for s in controls.permuted_words(OWN, CARD, seed=0)}
    assert set(made) == {"a", "c"}  # what was dropped stays out
    reasoning, line = made["a"].rsplit("\n", 1)
    assert line == "Classification: dorvan" and "Classification" not in made["c"]
    assert Counter(reasoning.split()) == Counter(OWN[0]["text"].split("\n")[0].split())
    assert reasoning != "one small red circle moving left slowly."
    assert made == {s["id"]: s["text"] for s in controls.permuted_words(OWN, CARD, seed=0)}


def test_gold_lines_keep_the_reasoning_of_dropped_ones_too() -> None:
    made = {s["id"]: s for s in controls.gold_lines(OWN, CARD)}
    assert made["b"]["text"] == "two small blue squares moving left.\nClassification: dorvan"
    assert made["b"]["verdict"] == "kept" and made["c"]["text"] == "a large thing moving up."


def test_playing_order_asks_each_clip_once_in_all_three_orders() -> None:
    rows = [{"id": f"{i:03d}", "video": "v", "label": None} for i in range(300)]
    made = controls.playing_order(rows, seed=1)
    said = Counter((s.get("order"), s["text"]) for s in made)
    assert set(said) == {(None, "forwards"), ("reversed", "backwards"), ("shuffled", "shuffled")}
    assert len(made) == 300 and min(said.values()) > 70


def test_play_count_asks_how_often() -> None:
    rows = [{"id": f"{i:03d}", "video": "v", "label": None} for i in range(300)]
    said = Counter((s.get("order"), s["text"]) for s in controls.play_count(rows, seed=1))
    assert (
        set(said) == {(None, "once"), ("twice", "twice"), ("three_times", "three times")} and min(said.values()) > 70
    )


def test_pseudo_labels_keep_the_sure_ones() -> None:
    rows = [{"id": name, "video": name, "label": label} for name, label in (("a", "dorvan"), ("b", None), ("c", None))]
    scores = {"b": {"dorvan": 0.2, "miloren": 0.8}, "c": {"dorvan": 0.55, "miloren": 0.45}}
    made = controls.pseudo_labels(rows, scores, CARD, False, min_score=0.6)
    assert [(s["id"], s["text"]) for s in made] == [("a", "dorvan"), ("b", "miloren")]
    assert made[0]["prompt"] == CARD.label_prompt(definitions=False)


def test_clips_of_the_pool_exchange_their_texts_only_where_somebody_tells_their_class() -> None:
    """Who exchanges the texts of a class hands that class to stage 1."""
    rows = [
        (f"{name}{i}", label, name)
        for name in ("dorvan", "miloren")
        for i, label in enumerate((name, name, None, None))
    ]
    samples = [
        {"id": clip, "label": label, "sample": 0, "verdict": "kept" if label else "unlabelled", "text": f"of {clip}"}
        for clip, label, _ in rows
    ]
    own = {s["id"]: s["text"] for s in samples}
    alone = controls.shuffled_within_class(samples, CARD, seed=0)
    told = controls.shuffled_within_class(samples, CARD, seed=0, classes={clip: name for clip, _, name in rows})
    for made, exchanged in ((alone, 4), (told, 8)):
        assert sum(own[s["id"]] not in s["text"] for s in made) == exchanged and len(made) == 8
        assert all(s["text"].split()[1][:-1] == s["id"][:-1] for s in made), "of the same class"
    assert all((own[s["id"]] in s["text"]) == (s["label"] is None) for s in alone)


def test_labels_of_the_pool_are_those_that_somebody_knows() -> None:
    rows = [{"id": name, "video": name, "label": label} for name, label in (("a", "dorvan"), ("b", None))]
    told = controls.told_labels(rows, {"a": {"label": "miloren"}, "b": {"label": "miloren"}}, CARD)
    assert told == {"b": {"miloren": 1.0}}, "a clip with a label keeps its own"
    made = controls.pseudo_labels(rows, told, CARD, False)
    assert [(s["id"], s["text"], s["verdict"]) for s in made] == [
        ("a", "dorvan", "kept"),
        ("b", "miloren", "unlabelled"),
    ]


def test_a_definition_with_a_final_line_is_refused_as_what_it_is() -> None:
    rows = [{"id": "a", "video": "a", "label": "dorvan"}]
    with pytest.raises(
        UserError, match="the definition in the task card: the text of clip 'a' holds 'Classification:'"
    ):
        controls.oracle_samples(
            rows, {"a": "It moves.\nClassification: dorvan"}, CARD, source="the definition in the task card"
        )


def test_a_true_description_of_nothing_but_spaces_is_refused() -> None:
    rows = [{"id": "a", "video": "a", "label": "dorvan"}]
    with pytest.raises(UserError, match="oracle_texts: the text of clip 'a' is empty"):
        controls.oracle_samples(rows, {"a": " \n "}, CARD)


def test_subsets_are_nested_and_keep_every_label() -> None:
    rows = [{"id": f"l{i}", "label": "dorvan"} for i in range(4)] + [{"id": f"p{i}", "label": None} for i in range(20)]
    small, large = (texts.subset(rows, times, 0) for times in (2, 5))
    assert len(small) == 8 and len(large) == 20 and {r["id"] for r in small} < {r["id"] for r in large}
    assert texts.subset(rows, 1, 0) == rows[:4] and texts.subset(rows, None, 0) == rows
    assert texts.subset(rows, 2, 0) != texts.subset(rows, 2, 1)
    with pytest.raises(UserError, match=r"times_labels is 7, which takes 24 clips .* there are 20"):
        texts.subset(rows, 7, 0)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("orakel", {}, "'orakel' is no kind of text; did you mean 'oracle'"),
        ("oracle", {"source": "x"}, "'source' is no setting"),
        ("shuffled", {}, r"need a 'source'"),
        ("own", {"source": "x", "times_labels": 0}, "'times_labels' is 0"),
        ("shuffled", {"source": "x", "pool": 1}, "'pool' is 1 but must be true or false"),
        ("pseudo_labels", {"source": "x", "min_score": 1.5}, "'min_score' is 1.5"),
    ],
)
def test_mistakes_in_the_settings_of_texts(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        texts.check_texts(kind, settings, "arm 'x', step 'y'")


@pytest.fixture(scope="module")
def task(toy_set: tuple[Path, Path], smoke_base: Path) -> Task:
    data = DataArguments(
        task=str(toy_set[0]), shots=2, num_frames=8, min_pixels=3136, max_pixels=3136, definitions=False
    )
    return open_task(data, base_arguments(smoke_base))


def test_a_clip_is_scored_once_for_pseudo_labels(
    task: Task, toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after a batch, gone on with, and made again: nothing is scored twice, and the labels are the same."""
    quick = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "max_steps": 1}
    teacher = tmp_path / "teacher"
    sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, output_dir=teacher, **quick)])
    scored, scores = [], texts.VideoClassifier.scores

    def counted(self: Any, rows: list[dict[str, Any]], clips: Any) -> list[dict[str, float]]:
        scored.extend(row["id"] for row in rows)
        return scores(self, rows, clips)

    def labels(name: str) -> list[dict[str, Any]]:
        given = {"settings": {"source": str(teacher)}, "truth": {}, "base": base_arguments(smoke_base), "seed": 0}
        return texts.make_texts("pseudo_labels", task, tmp_path / f"{name}.jsonl", **given)

    monkeypatch.setattr(texts.VideoClassifier, "scores", counted)
    monkeypatch.setattr(texts, "SCORED_AT_ONCE", 3)
    straight = labels("straight")
    pool = sorted(row["id"] for row in task.rows if row["label"] is None)
    assert sorted(scored) == pool and len(pool) == 8
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="1 of 3 batches are on the disk"):
        patch.setattr(texts, "noted", lambda: True)
        labels("stopped")
    scored.clear()
    assert labels("stopped") == straight and len(scored) == 5
    scored.clear()
    assert labels("stopped") == straight and not scored
    shutil.rmtree(teacher)
    sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, output_dir=teacher, seed=1, **quick)])
    with pytest.raises(UserError, match=r"was begun with weights = '.*delete the \.part files"):
        labels("stopped")


def test_stage_1_takes_every_kind(task: Task, toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path) -> None:
    """Each kind is written from real files, and one step is trained on it."""
    truth = {row["id"]: row for row in read_jsonl(toy_set[1] / "attributes.jsonl")}
    torch.manual_seed(0)
    quick = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "max_steps": 1}
    teacher = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "teacher", **quick)
    sft.main([teacher])
    base = base_arguments(smoke_base)
    own = texts.make_texts("oracle", task, tmp_path / "own.jsonl", settings={}, truth=truth, base=base, seed=0)
    assert len(own) == 2 * 8 + 8
    for kind in texts.KINDS:
        settings = {"pseudo_labels": {"source": str(tmp_path / "teacher")}, "oracle": {"column": "guideline"}}.get(
            kind, {}
        )
        if kind in texts.NEEDS_SOURCE and not settings:
            settings = {"source": str(tmp_path / "own.jsonl")}
        file = tmp_path / f"{kind}.jsonl"
        texts.make_texts(kind, task, file, settings=settings, truth=truth, base=base, seed=0)
        assert read_json(file.with_suffix(".summary.json"))["texts"] == kind
        if kind == "definition":
            made = read_jsonl(file)
            assert len(made) == 2 * 8 and {s["label"] for s in made} == set(CARD.names)
            assert {s["text"] for s in made} == {f"{CARD.labels[n]}\n{CARD.final_line(n)}" for n in CARD.names}
        recipe = toy_recipe("stage1", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / kind, **quick)
        record = sft.main([recipe, "--rationales", str(file)])
        assert record["steps"] == 1 and record["tokens"] > 0 and record["flops"] > 0
