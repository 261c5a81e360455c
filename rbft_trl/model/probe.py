"""A regularised linear probe on frozen features of the scoring prefill: the rival that every fine-tuning must beat.

Input: labelled training clips. Output: a function from features `[B, F]` to label log-probabilities `[B, C]`.
"""

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from rbft_trl.errors import UserError
from rbft_trl.model.collator import ClipCollator, Row
from rbft_trl.model.inference import prefill

STRENGTHS = np.logspace(-4, 2, 7)  # C of scikit-learn, chosen by cross-validation on the training clips
Read = Callable[[list[Row]], torch.Tensor]


def check_pairs(rows: list[Row], names: list[str], what: str) -> int:
    """The number of training clips of the rarest class, which must be two, as each is left out in turn.

    Raises:
        UserError: if it has fewer.
    """
    counts = {name: sum(row["label"] == name for row in rows) for name in names}
    rarest = min(counts, key=counts.get)
    if counts[rarest] < 2:
        raise UserError(
            f"{what} needs 2 training clips per class, '{rarest}' has {counts[rarest]}; set shots to 2 or more"
        )
    return counts[rarest]


def fit_probe(
    accelerator: Accelerator, model: torch.nn.Module, collator: ClipCollator, rows: list[Row], batch_size: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Fits the probe on the labelled training clips, each read once; at least two per class (`check_pairs`)."""
    names = collator.card.names
    folds = min(5, check_pairs(rows, names, "the probe"))
    ordered, features = features_of(accelerator, rows, reader(model, collator), batch_size)
    classifier = LogisticRegressionCV(
        Cs=STRENGTHS, cv=folds, max_iter=2000, scoring="neg_log_loss", l1_ratios=(0,), use_legacy_attributes=False
    )
    probe = make_pipeline(StandardScaler(), classifier)
    probe.fit(features, [names.index(row["label"]) for row in ordered])

    def logprobs(batch: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(probe.predict_log_proba(batch.float().cpu().numpy()))

    return logprobs


def reader(model: torch.nn.Module, collator: ClipCollator) -> Read:
    """Reads rows into the features of their label prompts, `[B, F]`."""
    return lambda rows: prefill(model, collator.prompts(rows, [collator.label_prompt(row) for row in rows])).features


def features_of(
    accelerator: Accelerator, rows: list[Row], read: Read, batch_size: int
) -> tuple[list[Row], np.ndarray]:
    """What `read` makes of every row, shared out between the processes.

    Returns:
        `tuple`: the rows sorted by id, and their features `[N, ...]` in that order, in every process.
    """
    ordered = sorted(rows, key=lambda row: row["id"])
    with accelerator.split_between_processes(ordered) as own:
        batches = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
        quiet, pairs = not accelerator.is_main_process, []
        for batch in tqdm(batches, desc="features of training clips", unit="batch", disable=quiet):
            pairs += zip([row["id"] for row in batch], read(batch).float().cpu().numpy(), strict=True)
        found = dict(gather_object(pairs))
    return ordered, np.stack([found[row["id"]] for row in ordered])
