"""What the steps of arms take from one another: what is read is of the right kind, and no step is run for nothing.

Input: the arms of a comparison. Output: nothing, or one sentence. That a step is there is checked in arms.py.
"""

import os
from collections.abc import Iterable
from typing import Any

from rbft_trl.arms import Arm, Step, all_references, references
from rbft_trl.errors import UserError

TEXTS, MODEL = "a file of texts", "a trained model"
MAKES = {"rationales": TEXTS, "texts": TEXTS, "sft": MODEL, "star": MODEL}  # by entry
READS = {("sft", "init"): MODEL, ("sft", "rationales"): TEXTS, ("rationales", "checkpoint"): MODEL}
READS |= {("texts", "source"): TEXTS}


def check_references(arms: dict[str, Arm], run: Iterable[str]) -> None:
    """What each step refers to makes what it takes, and every step of the arms that are run is of use.

    Args:
        arms (`dict`): Every arm by name, also those that others refer to.
        run (`Iterable[str]`): Those of which all steps are run.

    Raises:
        UserError: naming arm, step, key and value.
    """
    for arm in arms.values():
        for step in arm.steps:
            place = f"arm '{arm.name}', step '{step.name}'"
            _check_matched(step, arms, place)
            for key, value in step.settings.items():
                _check_taken(step, key, value, arm, arms, place)
    used = {pair for arm in arms.values() for pair in all_references(arm)}
    for name in run:
        for step in arms[name].steps:
            if step != arms[name].trained and (name, step.name) not in used:
                raise UserError(
                    f"arm '{name}', step '{step.name}': no other step takes what it makes, so it would be run for "
                    f"nothing; refer to it as <{step.name}>, or take it out"
                )


def check_learned(arms: dict[str, Arm], trainings: dict[tuple[str, str], tuple[str, tuple[Any, ...]]]) -> None:
    """No step goes on from a model that was trained on bare labels, nor are its rationales written by one.

    Args:
        arms (`dict`): Every arm by name.
        trainings (`dict`): By arm and step, the recipe of a training and its options.

    Raises:
        UserError: naming arm, step, key and value.
    """
    for arm in arms.values():
        for step in arm.steps:
            for key in ("init", "checkpoint"):
                for pair in references(step.settings.get(key), arm.name):
                    last = arms[pair[0]].step(pair[1]).entry == "star"  # which ends with the labels
                    if last or trainings[pair][1][3].target == "label":
                        raise UserError(
                            f"arm '{arm.name}', step '{step.name}': '{key}' is '{step.settings[key]}', which is "
                            "trained on bare labels; name a stage 1"
                        )


def _check_matched(step: Step, arms: dict[str, Arm], place: str) -> None:
    """`steps_of` and `flops_of` name a training."""
    if (of := step.steps_of or step.flops_of) is None:
        return
    arm, _, target = of.partition("/")
    model = arms[arm].step(target) if target else arms[arm].trained
    if model is None or MAKES[model.entry] != MODEL:
        raise UserError(
            f"{place}: '{'steps_of' if step.steps_of else 'flops_of'}' is '{of}', which trains nothing; name an arm "
            "or a step that trains, e.g. rbft"
        )


def _check_taken(step: Step, key: str, value: Any, arm: Arm, arms: dict[str, Arm], place: str) -> None:
    """A value that refers to a step, or should."""
    wanted = READS.get((step.entry, key))
    if (step.entry, step.recipe, key) == ("texts", "pseudo_labels", "source"):
        wanted = MODEL
    for other, target in references(value, arm.name):
        if wanted is None:
            raise UserError(f"{place}: '{key}' is '{value}' but takes no reference to a step; write a value")
        if (made := MAKES[arms[other].step(target).entry]) != wanted:
            raise UserError(
                f"{place}: '{key}' is '{value}', which is {made}, but takes {wanted}; refer to a step that makes one"
            )
        return
    if wanted is None or value == "base" or not isinstance(value, str):
        return
    bare = references(f"<{value}>", arm.name)
    named = any(other in arms and target in [s.name for s in arms[other].steps] for other, target in bare)
    if named or not (os.path.isfile(value) if wanted == TEXTS else os.path.isdir(value)):  # of any length
        kind, example = ("file", "rationales") if wanted == TEXTS else ("folder", "stage1")
        raise UserError(
            f"{place}: '{key}' is '{value}', which is no {kind}; what a step makes stands in angle brackets: "
            f"<{value if named else example}>"
        )
