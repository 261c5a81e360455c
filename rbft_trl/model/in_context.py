"""In-context examples (VideoICL, arXiv 2412.02186): the most similar labelled clips stand before the clip.

Input: labelled training clips. Output: label scores `[B, C]` of the one `LabelScorer`; nothing is trained.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler

from rbft_trl.configs import EvalArguments
from rbft_trl.data.video import Clip
from rbft_trl.errors import UserError
from rbft_trl.model.collator import ClipCollator, Row
from rbft_trl.model.inference import LabelScorer, Prefill, prefill, score_labels
from rbft_trl.model.probe import features_of, reader


class InContext:
    """Scores labels behind a conversation: per example a user turn with its clip and the label prompt and an assistant
    turn with its label, the most similar last, then the clip that is asked about.

    Similar are clips whose features (those of the probe, standardised over the training clips) have a large cosine.

    Args:
        accelerator (`Accelerator`): The processes.
        model (`torch.nn.Module`): The model.
        scorer (`LabelScorer`): The one decision rule.
        rows (`list[dict]`): Labelled training clips, each read once for its features, and again as an example.
        batch_size (`int`): Clips at once while features are read.
        examples (`int`): Examples per clip.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        scorer: LabelScorer,
        rows: list[Row],
        batch_size: int,
        *,
        examples: int,
    ) -> None:
        self.model, self.scorer, self.collator, self.examples = model, scorer, scorer.collator, examples
        self.rows, features = features_of(accelerator, rows, reader(model, self.collator), batch_size)
        self.scaler = StandardScaler().fit(features)
        self.features = self.scaler.transform(features)

    def __call__(self, rows: Sequence[Row], clips: Sequence[Clip]) -> tuple[Prefill, torch.Tensor]:
        """Two prefills: one of the clips alone, to find their examples, and one of the conversations."""
        prompts = [self.collator.label_prompt(row) for row in rows]
        alone = prefill(self.model, self.collator.prompts(rows, prompts, clips=clips))
        turns = []
        for row, clip, near in zip(rows, clips, self.nearest(alone.features), strict=True):
            examples = [(other, self.collator.read_row(other), other["label"]) for other in near]
            turns.append([*examples, (row, clip, None)])
        read = prefill(self.model, self.collator.conversations(turns))
        return read, score_labels(self.model, read, self.scorer.trie, how=self.scorer.how)

    def nearest(self, features: torch.Tensor) -> list[list[Row]]:
        """The training rows most similar to each clip, the most similar last."""
        near = cosine_similarity(self.scaler.transform(features.float().cpu().numpy()), self.features)
        order = np.argsort(-near, axis=1, kind="stable")[:, : self.examples]
        return [[self.rows[i] for i in reversed(best)] for best in order.tolist()]


def check_fits(
    args: EvalArguments,
    collator: ClipCollator,
    train: list[Row],
    tested: list[Row],
    known: Mapping[str, dict[str, Any]],
    limit: int,
) -> None:
    """Refuses prompts that may be longer than the base's positions: the longest examples before the longest clip.

    Raises:
        UserError: if they do not fit, or there are fewer training clips than examples.
    """
    examples = args.examples()
    if examples > len(train):
        raise UserError(f"num_examples is {examples} but there are {len(train)} training clips; lower it")

    def lengths(rows: list[Row]) -> list[int]:
        asked = [row | {"target": "label", "text": ""} for row in rows]
        return sorted(collator.count_tokens(asked, [known[row["id"]] for row in rows]))

    longest = sum(lengths(train)[-examples:]) + max(lengths(tested), default=0)
    longest += examples * len(collator.turn_ids[1])
    if longest > limit:
        raise UserError(
            f"num_examples is {examples}, and the longest prompt would have {longest} tokens, but the base takes "
            f"{limit}; lower num_examples, num_frames or max_pixels"
        )
