"""The options of Video-STaR: the recipes of its parts, when its cycles end, and what the final model learns from."""

from dataclasses import dataclass

from rbft_trl.configs import check_bounds, option
from rbft_trl.errors import UserError


@dataclass
class StarArguments:
    """Which recipes the cycles are made of, and when they end."""

    output_dir: str = option("", "Folder for the cycles, the final stage, star.json and yields.png.", output=True)
    task: str = option("", "Task card of every part, instead of the one that the recipes name.", path=True)
    setup: str | None = option(None, "Setup of every part, instead of the one that its recipe names.", path=True)
    rationales: str = option("", "Recipe of stage 0: generates, then rationalises the failures.", path=True)
    stage1: str = option("", "Recipe that trains on kept pairs, from the base.", path=True)
    stage2: str | None = option(None, "Recipe of stage 2, if it is to follow the final stage.", path=True)
    eval: str = option("", "Recipe of the evaluation of the result.", path=True)
    cycles: int = option(3, "Most cycles.")
    min_rise: float = option(
        0.02, "The cycles end once the share of direct right answers rises by less than this from one to the next."
    )
    final_pairs: str = option(
        "generated",
        "What the final stage learns from. generated: answers that were right without the label (the paper); "
        "kept: the rationalised ones too.",
        choices=["generated", "kept"],
    )
    shots: int | None = option(None, "Labelled clips per class, instead of what the setup says.")
    draw: int | None = option(None, "Seed of the draw of labelled clips, where there are `shots`.")
    seed: int = option(0, "Seed of every part.")
    launch: str | None = option(
        None, "Launch file of accelerate: every part is one `accelerate launch` with it; left out: this process.",
        path=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for key in ("output_dir", "rationales", "stage1", "eval"):
            if not getattr(self, key):
                raise UserError(f"'{key}' is missing; recipes/toy/star.yaml shows what it is for")
        check_bounds(
            self,
            cycles=(self.cycles >= 1, "at least 1"),
            min_rise=(-1 <= self.min_rise <= 1, "a share, from -1 to 1 (-1 never ends early)"),
            seed=(0 <= self.seed < 2**32, "from 0 to below 2^32"),
        )
