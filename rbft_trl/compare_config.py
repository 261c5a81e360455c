"""The options of a comparison: which arms, on how many draws and shots, tested where, started how.

Which other options an entry has is rbft_trl/configs.py.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from rbft_trl.configs import check_bounds, option
from rbft_trl.errors import UserError

RECIPES = ("rationales", "stage1", "stage2", "direct", "eval")
PART = re.compile(r"([1-9]\d*)/([1-9]\d*)")


@dataclass
class CompareArguments:
    """Arms x draws (x shots): which recipes make an arm, and what is compared."""

    output_dir: str = option("", "Folder for the cells, comparison.json and report.html.", output=True)
    task: str = option("", "Task card of every arm, instead of the one that the recipes name.", path=True)
    setup: str | None = option(None, "Setup of every stage, instead of the one that its recipe names.", path=True)
    rationales: str = option("", "Recipe of stage 0.", path=True)
    stage1: str = option("", "Recipe of stage 1.", path=True)
    stage2: str = option("", "Recipe of stage 2.", path=True)
    direct: str = option("", "Recipe of direct SFT.", path=True)
    eval: str = option("", "Recipe of the evaluation.", path=True)
    star: str | None = option(None, "Recipe of Video-STaR, for arms that have such a step.", path=True)
    arms: list[str] = option(
        ["zero_shot", "probe", "direct", "rbft", "shuffled"], "Arms, in the order of the table: files of arms_folder."
    )
    arms_folder: str = option("arms", "Folder of the arms, one YAML file each.", path=True)
    oracle_texts: str | None = option(
        None, "JSONL of {id, text, label}: true descriptions of training clips, for arms that use them.", path=True
    )
    seeds: int = option(1, "Number of draws; of fewer than five no difference is claimed.")
    first_draw: int = option(0, "Number of the first draw: other draws than those of an earlier comparison.")
    shots: list[int] | None = option(None, "Labelled clips per class, one comparison each; left out: the recipes'.")
    trials: dict[str, Any] | None = option(
        None,
        "One key and its values, e.g. {learning_rate: [1.0e-4, 3.0e-4]}: every trained arm runs its last stage with "
        "each, and keeps the one that is best on the validation clips.",
    )
    shuffled_frames: bool = option(False, "Also test every trained arm on clips whose frames are shuffled.")
    novel: str | None = option(None, "Card of classes that nothing was trained on, for base-to-novel.", path=True)
    elsewhere: list[str] = option([], "Cards with the same classes and other clips, for domain shift.", path=True)
    part: str | None = option(None, "`1/2`: run only every second draw, beside another process that runs `2/2`.")
    launch: str | None = option(
        None, "Launch file of accelerate: every stage is one `accelerate launch` with it; left out: this process.",
        path=True,
    )  # fmt: skip
    note: str = option("", "One sentence printed under the table and in the report.")
    parts: tuple[int, int] = field(init=False, default=(1, 1))

    def __post_init__(self) -> None:
        for key in ("output_dir", *RECIPES):
            if not getattr(self, key):
                raise UserError(f"'{key}' is missing in the comparison; recipes/toy/compare.yaml shows what it is for")
        last = 2**32 - self.seeds  # a draw is the seed of its trainings, too
        first = 0 <= self.first_draw <= last, f"from 0 to {last}"
        check_bounds(self, seeds=(self.seeds >= 1, "at least 1"), first_draw=first)
        if not self.arms:
            raise UserError("'arms' is empty, so there is nothing to compare; name direct and another one")
        if self.shots is not None and (not self.shots or min(self.shots) < 1 or self.shots != sorted(set(self.shots))):
            raise UserError(f"'shots' is {self.shots} but must be numbers from 1 upwards in rising order")
        if self.trials is not None and (len(self.trials) != 1 or not _is_list(next(iter(self.trials.values())))):
            raise UserError(
                f"'trials' is {self.trials} but must be one key with its values, e.g. "
                "{learning_rate: [1.0e-4, 3.0e-4]}"
            )
        if self.part is not None:
            found = PART.fullmatch(self.part)
            if not found or int(found[1]) > int(found[2]):
                raise UserError(f"'part' is '{self.part}' but must be e.g. 1/2: the first of two processes")
            self.parts = (int(found[1]), int(found[2]))
            if self.parts[0] > self.seeds:
                raise UserError(
                    f"'part' is '{self.part}' but 'seeds' is {self.seeds}, so part {self.parts[0]} has no draw to "
                    f"run; use {self.seeds} parts at most"
                )

    @property
    def draws(self) -> range:
        """The numbers of the draws, in all parts."""
        return range(self.first_draw, self.first_draw + self.seeds)

    @property
    def other_cards(self) -> dict[str, list[str]]:
        """The cards that every arm is tested on beside its own, each with the words of its evaluation."""
        novel = {self.novel: ["--unseen_labels", "true"]} if self.novel else {}
        return {card: [] for card in self.elsewhere} | novel

    def recipe_of(self, name: str) -> str | None:
        """The recipe of a step: a file, or the one that the comparison names under this key."""
        return name if name.endswith(".yaml") else getattr(self, name)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)
