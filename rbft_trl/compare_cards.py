"""The task cards of a comparison: all name classes, and what a model was trained on is asked in the same words.

Input: the options of a comparison. Output: nothing, or one sentence. Their clips are looked at by compare_data.py.
"""

from pathlib import Path

from rbft_trl.compare_config import CompareArguments
from rbft_trl.data.task import TaskCard, normalise
from rbft_trl.errors import UserError


def check_cards(args: CompareArguments, task: str) -> None:
    """The comparison's own card, and those that arms are tested on beside it: with the same classes, or for `novel`
    with others.

    Raises:
        UserError: naming the card.
    """
    own = read_card(task, "task")
    stems = [Path(card).stem for card in args.other_cards]
    if double := [stem for stem in stems if stems.count(stem) > 1]:
        raise UserError(f"two cards of 'elsewhere' and 'novel' are named '{double[0]}.yaml'; rename one")
    for card in args.other_cards:
        if Path(card).resolve() == Path(task).resolve():
            raise UserError(f"'elsewhere' and 'novel' hold {card}, which is the comparison's own card; take it out")
        if card == args.novel:
            _check_novel(own, read_card(card, "novel"))
        else:
            _check_elsewhere(own, read_card(card, "elsewhere"))


def read_card(card: str, key: str) -> TaskCard:
    """A card of classes, which a comparison scores.

    Raises:
        UserError: if its answers are open.
    """
    read = TaskCard.from_yaml(card)
    if read.is_open:
        raise UserError(
            f"{key}: {card} has answers of type {read.answer.type}, no classes, and a comparison scores classes; name "
            "a card with labels (rbft_trl/star.py trains on open answers)"
        )
    return read


def _check_novel(own: TaskCard, novel: TaskCard) -> None:
    """Other classes, asked about in the same words."""
    known = {normalise(name) for name in own.names}
    if shared := [name for name in novel.names if normalise(name) in known]:
        raise UserError(f"novel: {novel.path} names '{shared[0]}' as the comparison's own card does; take it out")
    if key := own.differs_beside_labels(novel):
        raise UserError(
            f"novel: {novel.path} has another {key} than the comparison's own card, {own.path}; only the labels and "
            "the clips may differ there"
        )


def _check_elsewhere(own: TaskCard, there: TaskCard) -> None:
    """The same classes and words: what was trained on one card is asked on the other."""
    if other := set(own.names) ^ set(there.names):
        raise UserError(
            f"elsewhere: {there.path} and the comparison's own card differ in '{min(other)}'; only the clips may "
            "differ there"
        )
    if there.fingerprint() != own.fingerprint():
        raise UserError(
            f"elsewhere: {there.path} has other prompts, definitions or another order of its labels than the "
            f"comparison's own card, {own.path}; only the clips may differ there"
        )
