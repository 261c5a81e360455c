"""What a comparison needs of the data, checked before anything is trained: clips, texts, shots, and no leak.

Input: the options of a comparison and its arms. Output: nothing, or one sentence. What must be equal is fairness.py.
"""

import dataclasses
import warnings
from collections import Counter
from typing import Any

from rbft_trl.arms import Arm, Step
from rbft_trl.cells import Cells, other_card, shared
from rbft_trl.checklist import check_checklist
from rbft_trl.configs import DataArguments, EvalArguments, ModelArguments, StageArguments
from rbft_trl.costs import Place
from rbft_trl.data.splits import draw_shots
from rbft_trl.errors import UserError, nearest
from rbft_trl.eval import ALONE, check_method
from rbft_trl.evidence.controls import oracle_samples, told_labels
from rbft_trl.launched import processes_of
from rbft_trl.model.provenance import files_of, groups_of, leaked
from rbft_trl.plan import OPTIONS, check_batch, check_validation
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.recipe import parse_recipe, words_of
from rbft_trl.star_config import StarArguments
from rbft_trl.start import Task, open_task
from rbft_trl.texts import subset
from rbft_trl.training_config import TrainingConfig

GROUPS = (DataArguments, ModelArguments)


def check_data(run: Cells) -> Task:
    """Everything that the arms need of the clips and the card; returns the first draw of the rung that answers.

    Raises:
        UserError: naming the arm or the card, what is missing, and the way out.
    """
    task = run.task(first_place(run))
    for split in ("train", "test"):
        check_labelled(task, split, "a comparison trains and tests on this card, so give it clips")
    steps = [(arm, step) for arm in run.arms.values() for step in arm.steps]
    for arm, step in steps:
        if step.entry == "rationales":
            check_writer(run, arm, step, task)
        elif step.entry in ("sft", "star"):
            check_trainings(run, arm, step, task)
    check_pool(steps, task)
    for name in run.args.arms:
        check_rival(run, run.arms[name])
    oracle = [(arm, step) for arm, step in steps if step.knows_truth]
    if oracle or run.args.other_cards:
        check_oracle(run, oracle, run.whole)
        check_other_cards(run, run.whole)
    return task


def check_labelled(task: Task, split: str, way_out: str) -> None:
    """A split has labelled clips.

    Raises:
        UserError: naming the card.
    """
    if not task.of_split(split):
        raise UserError(f"{task.card.path}: the {split} split has no labelled clip; {way_out}")


def labels_per_class(run: Cells) -> list[int]:
    """How many labelled clips of a class the draws choose from: of the class with fewest, and of that with most."""
    rows = run.whole.rows
    counts = Counter(row["label"] for row in rows if row["split"] == "train" and row["label"] is not None)
    return [min(counts.values()), max(counts.values())]


def first_place(run: Cells) -> Place:
    """The first draw of the rung that answers, which the report shows clips of."""
    return Place(run.args.first_draw, run.args.shots[-1] if run.args.shots else None)


def check_writer(run: Cells, arm: Arm, step: Step, task: Task) -> None:
    """The card has questions, where a step has them answered."""
    argv = [run.args.recipe_of(step.recipe), *shared(run.args), *words_of(step.settings)]
    *_, args = parse_recipe(argv, *GROUPS, RationaleArguments)
    if args.writer == "checklist":
        with_place(f"arm '{arm.name}', step '{step.name}'", check_checklist, task.card)


def check_trainings(run: Cells, arm: Arm, step: Step, task: Task) -> None:
    """What a step trains finds validation clips where it looks at them, and labelled clips for a whole batch where it
    trains on these alone, at the smallest number of shots."""
    place, clips = f"arm '{arm.name}', step '{step.name}'", task.readable("validation")
    way_out = "set it to no"
    if run.args.trials and step == arm.trained:
        way_out = "give it some, since 'trials' chooses by them, or leave 'trials' out"
    smallest = Place(run.args.first_draw, run.args.shots[0] if run.args.shots else None)
    labelled, shots = run.task(smallest).readable("train"), smallest.shots or run.data.shots
    for stage, training in trainings_of(run, step):
        with_place(place, check_validation, training, task.card, clips, way_out=way_out)
        if stage.target == "label":
            where, more = (f"{place}, {shots} shots", "raise shots") if shots else (place, "add labelled clips")
            with_place(where, check_batch, training, len(labelled), processes_of(run.args.launch), way_out=more)


def trainings_of(run: Cells, step: Step) -> list[tuple[StageArguments, TrainingConfig]]:
    """The options of what a step trains; of Video-STaR those of its cycles, and of the stage 2 that follows them."""
    recipe, words = run.args.recipe_of(step.recipe), words_of(step.settings)
    found = [(recipe, words)]  # of `sft`
    if step.entry == "star":
        (parts,) = parse_recipe([recipe, *shared(run.args), *words], StarArguments)
        found = [(parts.stage1, []), (run.args.stage2, [])]
    return [tuple(parse_recipe([file, *shared(run.args), *own], *OPTIONS)[3:]) for file, own in found]


def check_oracle(run: Cells, steps: list[tuple[Arm, Step]], whole: Task) -> None:
    """Every training clip has its true description or class, where an arm needs it (with `times_labels: 1` a
    description of every labelled one), and no class there is another than the table's.

    Raises:
        UserError: naming arm, step and clip.
    """
    if steps:
        check_truth(run.truth, whole)
    train = [row for row in whole.rows if row["split"] == "train"]
    for arm, step in steps:
        place = f"arm '{arm.name}', step '{step.name}'"
        if step.recipe != "oracle":
            with_place(place, told_labels, train, run.truth, whole.card)
            continue
        column = step.settings.get("column", "text")
        if not any(column in row for row in run.truth.values()):
            there = sorted({key for row in run.truth.values() for key in row} - {"id"})
            raise UserError(
                f"{place}: 'column' is '{column}', which no line of oracle_texts has{nearest(column, there)}; its "
                f"lines have {', '.join(there) or 'none beside id'}"
            )
        rows = [row for row in train if row["label"] is not None or step.settings.get("times_labels") != 1]
        texts = {name: row.get(column, "") for name, row in run.truth.items()}
        with_place(place, oracle_samples, rows, texts, whole.card)


def check_truth(truth: dict[str, dict[str, Any]], whole: Task) -> None:
    """Clips of which a person told the truth are clips of the task, in whatever split, with the same class.

    Raises:
        UserError: if classes differ.
    """
    labels = {row["id"]: row["label"] for row in whole.rows}
    for clip, told in truth.items():
        if told.get("label") is not None and labels.get(clip) not in (None, told["label"]):
            raise UserError(
                f"oracle_texts: the label of clip '{clip}' is {told['label']!r}, but {whole.card.path} has "
                f"'{labels[clip]}'; correct one of them"
            )
    if unknown := sorted(set(truth) - set(labels)):
        warnings.warn(
            f"oracle_texts tells of {len(unknown)} clips that {whole.card.path} does not have, e.g. '{unknown[0]}'; "
            "these lines are not used",
            stacklevel=2,
        )


def check_pool(steps: list[tuple[Arm, Step]], task: Task) -> None:
    """There are as many clips without a label as arms take with `times_labels`, at the largest number of shots."""
    rows = [row for row in task.rows if row["split"] == "train"]
    for arm, step in steps:
        if "times_labels" in step.settings:
            place = f"arm '{arm.name}', step '{step.name}'"
            with_place(place, subset, rows, step.settings["times_labels"], 0)


def check_rival(run: Cells, arm: Arm) -> None:
    """An arm that decides by training clips without training has as many as it needs, at every number of shots."""
    argv = [run.args.eval, *shared(run.args), "--checkpoint", "null", *words_of(arm.evaluate)]
    data, _, args = parse_recipe(argv, *GROUPS, EvalArguments)
    if args.method in ALONE:
        return
    for shots in run.args.shots or [None]:
        drawn = run.task(Place(run.args.first_draw, shots))
        task = dataclasses.replace(drawn, definitions=data.definitions)
        place = f"arm '{arm.name}'" + (f", {shots} shots" if shots else "")
        with_place(place, check_method, args, run.base, task, task.readable("train"))


def check_other_cards(run: Cells, whole: Task) -> None:
    """The clips of `novel` and `elsewhere` are there, and no source of their test clips is one that a draw shows.

    Raises:
        UserError: naming the card, and a source that is in both.
    """
    seen = seen_by(run, whole)
    for card in run.args.other_cards:
        key = "novel" if card == run.args.novel else "elsewhere"
        data, base, _ = parse_recipe([run.args.eval, *other_card(run.args, card)], *GROUPS, EvalArguments)
        task = with_place(key, open_task, data, base)
        with_place(key, check_labelled, task, "test", "give it clips, or leave the card out")
        what, names = leaked(seen, task.rows, task.manifest, "test")
        if names:
            named = f", e.g. '{names[0]}'," if what == "groups" else ""
            raise UserError(
                f"{key}: {card}: {len(names)} {what} of its test split{named} are among the training or validation "
                f"clips of {whole.card.path}; take them out of one of the cards"
            )


def seen_by(run: Cells, whole: Task) -> dict[str, list[str]]:
    """Groups and files of the training clips of all draws and of the validation clips, as records name them."""
    rungs = [shots or run.data.shots for shots in run.args.shots or [None]]
    rows = [row for n in rungs for draw in run.args.draws for row in draw_shots(whole.rows, n, seed=draw)]
    seen = {}
    for key, split in (("trained_on", "train"), ("selected_by", "validation")):
        seen |= {key: groups_of(rows, split), f"{key}_files": files_of(rows, whole.manifest, split)}
    return seen


def with_place(place: str, check: Any, *args: Any, **options: Any) -> Any:
    """What a check returns; its sentence begins with the place.

    Raises:
        UserError: as the check does.
    """
    try:
        return check(*args, **options)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
