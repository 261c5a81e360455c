"""Evidence by deletion and reconstruction (RISE, arXiv 2508.13229): can the label be rebuilt from the text alone?

Input: reasoning without the sentences that name a class; the clip is not shown. Output: a score per class.
"""

from collections.abc import Sequence

import torch
from torch import nn

from rbft_trl.data.task import CLIP_PLACE, FINAL_LINE
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.inference import LabelTrie, Prefill, score_labels


class Rebuilder:
    """Scores every class as the final line of a given reasoning, in the turn of the assistant and without the clip.

    The score is log p(class | reasoning) - log p(class | no reasoning): what the reasoning adds, so that a name that
    the base likes anyhow has no start. Both are sums over the tokens of the name and the end token, from one prefill
    of text per reasoning (and one for all without) and one forward over the trie of the names.

    Args:
        collator (`ClipCollator`): Makes the prompt: the card's blind one for rationales, without a clip's own text.
    """

    def __init__(self, collator: ClipCollator) -> None:
        self.collator, self.names = collator, collator.card.names
        # " x" after "Classification:", as a tokenizer cuts the final line of a rationale
        self.trie = LabelTrie.build([collator.encode(f" {name}") for name in self.names], collator.end_id)
        self.prior: torch.Tensor | None = None

    def scores(self, model: nn.Module, reasonings: Sequence[str]) -> list[dict[str, float]]:
        """Per reasoning: class → score, in the card's order."""
        if self.prior is None:
            self.prior = self._raw(model, [""])
        added = (self._raw(model, reasonings) - self.prior).tolist()
        return [dict(zip(self.names, row, strict=True)) for row in added]

    def _raw(self, model: nn.Module, reasonings: Sequence[str]) -> torch.Tensor:
        """float32 `[B, C]`."""
        sequences = [self.tokens(text) for text in reasonings]
        return score_labels(model, prefill_text(model, sequences, self.collator.tokenizer.pad_token_id), self.trie)

    def tokens(self, reasoning: str) -> list[int]:
        """Everything up to the class name of the final line."""
        collator = self.collator
        prompt = collator.card.rationale_prompt(definitions=collator.definitions).replace(CLIP_PLACE, "")
        begun = f"{reasoning}\n{FINAL_LINE}" if reasoning else FINAL_LINE
        return [*collator.opening_ids, *collator.encode(prompt), *collator.after_ids, *collator.encode(begun)]


@torch.no_grad()
def prefill_text(model: nn.Module, sequences: Sequence[Sequence[int]], pad_id: int) -> Prefill:
    """One forward over texts without a clip.

    Positions are given, since the module may still hold those of the last clip (`rope_deltas`).

    Args:
        model (`nn.Module`): The model.
        sequences (`Sequence[Sequence[int]]`): Token ids per row.
        pad_id (`int`): Fills up on the left.
    """
    longest = max(map(len, sequences))
    ids = torch.tensor([[pad_id] * (longest - len(one)) + list(one) for one in sequences], device=model.device)
    lengths = torch.tensor([len(one) for one in sequences], device=model.device)
    mask = (torch.arange(longest, device=model.device) >= (longest - lengths)[:, None]).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0).expand(3, -1, -1)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        mm_token_type_ids=torch.zeros_like(ids),
        use_cache=True,
        logits_to_keep=1,
    )
    logits = out.logits[:, -1].float()
    return Prefill(out.past_key_values, logits, logits[:, :0], mask, lengths[None, :, None].expand(3, -1, -1))
