"""An arm of a comparison as a file: steps with recipes, and how the result is evaluated.

Input: recipes/arms/NAME.yaml. Output: an `Arm`. What runs it is rbft_trl/cells.py.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbft_trl.errors import UserError, nearest
from rbft_trl.yaml_file import check_keys, read_mapping

ENTRY_OF = {"rationales": "rationales", "stage1": "sft", "stage2": "sft", "direct": "sft", "star": "star"}
ENTRIES = ("rationales", "sft", "star", "texts")
TRUE = ("oracle", "labels")  # kinds of texts that nobody can make without oracle_texts
ROLES = ("oracle", "control", "reference")
MATCHED = ("steps_of", "flops_of", "steps_share")
REFERENCE = re.compile(r"<(?:(?P<arm>[^/<>]+)/)?(?P<step>[^/<>]+)>")
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Step:
    """One run of an entry.

    Args:
        name (`str`): Of its folder or file, and how later steps refer to it: `<name>`, `<arm/name>`.
        entry (`str`): rationales, sft, star or texts.
        recipe (`str`): A key of the comparison (`stage1`), a file, or for texts the kind of text.
        settings (`dict`): Overrides of the recipe; a value may refer to another step.
        steps_of (`str`, *optional*): `arm` or `arm/step`: train as many optimiser steps as that one. Of an arm: as
            many in all as it has, less those of the earlier steps here.
        flops_of (`str`, *optional*): The same for floating-point operations, for a training whose rows are longer or
            shorter than that one's.
        steps_share (`float`, *optional*, defaults to 1.0): Of `steps_of`, where a step shows more than others do.
    """

    name: str
    entry: str
    recipe: str
    settings: dict[str, Any] = field(default_factory=dict)
    steps_of: str | None = None
    flops_of: str | None = None
    steps_share: float = 1.0

    @property
    def knows_truth(self) -> bool:
        """Whether these texts are made from oracle_texts."""
        return self.entry == "texts" and (self.recipe in TRUE or bool(self.settings.get("pool")))


@dataclass(frozen=True)
class Arm:
    """One arm.

    Args:
        name (`str`): The stem of its file.
        about (`str`): One line for table and report.
        steps (`tuple[Step, ...]`): In the order in which they run; the last training is what is evaluated.
        evaluate (`dict`): Overrides of the evaluation's recipe.
        role (`str`, *optional*): oracle (stage 1 has true texts: if these do not gain, nothing can be seen), control
            (another test of the comparison itself, e.g. shuffled texts), reference (beside the question); left out: a
            candidate for use.
    """

    name: str
    about: str
    steps: tuple[Step, ...]
    evaluate: dict[str, Any]
    role: str | None

    def step(self, name: str) -> Step:
        """The step of that name.

        Raises:
            UserError: if there is none.
        """
        for step in self.steps:
            if step.name == name:
                return step
        known = [step.name for step in self.steps]
        raise UserError(
            f"arm '{self.name}' has no step '{name}'{nearest(name, known)}; it has {', '.join(known) or 'none'}"
        )

    @property
    def trained(self) -> Step | None:
        """The step whose model is evaluated; None for arms that evaluate the base."""
        return next((step for step in reversed(self.steps) if step.entry in ("sft", "star")), None)


def read_arms(names: list[str], folder: str) -> dict[str, Arm]:
    """The arms and all others that their steps refer to, by name; those asked for come first, in their order.

    Raises:
        UserError: if a file is missing, holds an unknown key, or refers to a step that is not there.
    """
    arms: dict[str, Arm] = {}
    wanted = list(names)
    while wanted:
        name = wanted.pop(0)
        if name in arms:
            continue
        arms[name] = read_arm(name, Path(folder))
        wanted += [arm for arm, _ in all_references(arms[name]) if arm != name]
    for arm in arms.values():
        seen: list[str] = []
        for step in arm.steps:
            for other, target in _references_of(step, arm.name):
                if target is None and other == arm.name:
                    raise UserError(
                        f"arm '{arm.name}': step '{step.name}' takes its steps from its own arm; name another"
                    )
                if target is not None:
                    arms[other].step(target)
                if other == arm.name and target not in seen:
                    raise UserError(f"arm '{arm.name}': step '{step.name}' refers to '{target}', which comes later")
            seen.append(step.name)
        _refuse_circle(arm.name, arms, ())
    return arms


def _refuse_circle(name: str, arms: dict[str, Arm], path: tuple[str, ...]) -> None:
    if name in path:
        raise UserError(f"arms refer to each other in a circle: {' -> '.join([*path, name])}; break it")
    for other in {other for other, _ in all_references(arms[name]) if other != name}:
        _refuse_circle(other, arms, (*path, name))


def read_arm(name: str, folder: Path) -> Arm:
    """One file of the folder, checked for itself."""
    file = folder / f"{name}.yaml"
    if not file.is_file():
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        if not known:
            raise UserError(f"arms_folder '{folder}' holds no arm; recipes/arms is the one to copy")
        raise UserError(
            f"arms holds '{name}', which is no arm{nearest(name, known)}; '{folder}' has {', '.join(known)}"
        )
    raw = read_mapping(file, what="arm", example="recipes/arms/rbft.yaml is one to copy")
    check_keys(raw, {"about", "steps", "evaluate", "role"}, file, "an arm")
    if not isinstance(raw.get("about"), str) or not raw["about"].strip():
        raise UserError(f"{file}: 'about' is missing; write one line that says what the arm is")
    for key in ("steps", "evaluate"):
        if not isinstance(raw.get(key) or {}, dict):
            raise UserError(f"{file}: '{key}' is {raw[key]!r} but must be a mapping; recipes/arms/rbft.yaml shows it")
    if raw.get("role") not in (None, *ROLES):
        raise UserError(
            f"{file}: 'role' is {raw['role']!r} but must be one of {', '.join(ROLES)}; leave it out for a candidate"
        )
    steps = tuple(_step(key, value, file) for key, value in (raw.get("steps") or {}).items())
    return Arm(name, raw["about"].strip(), steps, raw.get("evaluate") or {}, raw.get("role"))


def _step(name: Any, raw: Any, file: Path) -> Step:
    if not isinstance(name, str) or not NAME.fullmatch(name) or name.startswith("eval"):
        raise UserError(f"{file}: the step {name!r} needs a name of small letters that does not begin with eval")
    if not isinstance(raw, dict) or ("recipe" in raw) == ("texts" in raw):
        raise UserError(f"{file}: step '{name}' needs either 'recipe' or 'texts'; recipes/arms/rbft.yaml shows it")
    rest = {key: value for key, value in raw.items() if key not in ("recipe", "texts", "entry", *MATCHED)}
    steps_of, flops_of, share = raw.get("steps_of"), raw.get("flops_of"), raw.get("steps_share", 1.0)
    if "steps_share" in raw and (steps_of is None or not isinstance(share, float) or not 0 < share <= 1):
        raise UserError(
            f"{file}: 'steps_share' of step '{name}' is {share!r} but must be a share of steps_of, e.g. 0.5"
        )
    for key, of in (("steps_of", steps_of), ("flops_of", flops_of)):
        if of is not None and (not isinstance(of, str) or not of):
            raise UserError(f"{file}: '{key}' of step '{name}' is {of!r} but must be an arm, or arm/step")
    if steps_of and flops_of:
        raise UserError(f"{file}: step '{name}' has 'steps_of' and 'flops_of'; it can only match one of them")
    matched = "steps_of" if steps_of else "flops_of" if flops_of else None
    if "texts" in raw:
        if "entry" in raw or matched:
            raise UserError(f"{file}: step '{name}' makes texts and takes no '{matched or 'entry'}'; leave it out")
        return Step(name, "texts", str(raw["texts"]), rest)
    recipe = raw["recipe"]
    entry = raw.get("entry") or ENTRY_OF.get(str(recipe)) or ("sft" if str(recipe).endswith(".yaml") else None)
    if not isinstance(recipe, str) or entry not in ENTRIES[:3] or (recipe in ENTRY_OF and "entry" in raw):
        raise UserError(
            f"{file}: step '{name}' has recipe {recipe!r}; use one of {', '.join(ENTRY_OF)}, or a file with entry: "
            "sft, rationales or star"
        )
    if matched and (entry != "sft" or "max_steps" in rest):
        raise UserError(f"{file}: '{matched}' of step '{name}' is for training without max_steps; leave one out")
    if recipe.endswith(".yaml"):
        recipe = str(file.parent / recipe)
    return Step(name, entry, recipe, rest, steps_of, flops_of, share)


def references(value: Any, own: str) -> list[tuple[str, str]]:
    """`(arm, step)` of a setting that refers to another step."""
    found = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return [(found["arm"] or own, found["step"])] if found else []


def _references_of(step: Step, own: str) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = [pair for value in step.settings.values() for pair in references(value, own)]
    if of := step.steps_of or step.flops_of:
        arm, _, target = of.partition("/")
        found.append((arm, target or None))
    return found


def all_references(arm: Arm) -> list[tuple[str, str | None]]:
    """`(arm, step)` of everything that the steps of an arm refer to, also to have as many steps; None: a whole arm."""
    return [pair for step in arm.steps for pair in _references_of(step, arm.name)]
