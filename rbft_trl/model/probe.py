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


def fit_probe(
    accelerator: Accelerator, model: torch.nn.Module, collator: ClipCollator, rows: list[Row], batch_size: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Fits the probe on the labelled training clips, each read once.

    Raises:
        UserError: if a class has fewer than two clips, since the strength is chosen by cross-validation.
    """
    names = collator.card.names
    counts = {name: sum(row["label"] == name for row in rows) for name in names}
    rarest = min(counts, key=counts.get)
    if counts[rarest] < 2:
        raise UserError(
            f"the probe needs 2 training clips per class, '{rarest}' has {counts[rarest]}; set shots to 2 or more"
        )
    with accelerator.split_between_processes(sorted(rows, key=lambda row: row["id"])) as own:
        features = dict(
            gather_object(_features(model, collator, own, batch_size, quiet=not accelerator.is_main_process))
        )
    ids = sorted(features)
    labels = {row["id"]: names.index(row["label"]) for row in rows}
    folds = min(5, counts[rarest])
    classifier = LogisticRegressionCV(
        Cs=STRENGTHS, cv=folds, max_iter=2000, scoring="neg_log_loss", l1_ratios=(0,), use_legacy_attributes=False
    )
    probe = make_pipeline(StandardScaler(), classifier)
    probe.fit(np.stack([features[i] for i in ids]), [labels[i] for i in ids])

    def logprobs(batch: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(probe.predict_log_proba(batch.float().cpu().numpy()))

    return logprobs


def _features(
    model: torch.nn.Module, collator: ClipCollator, rows: list[Row], batch_size: int, *, quiet: bool
) -> list[tuple[str, np.ndarray]]:
    pairs = []
    for start in tqdm(range(0, len(rows), batch_size), desc="features for the probe", unit="batch", disable=quiet):
        batch = rows[start : start + batch_size]
        read = prefill(model, collator.prompts(batch, [collator.label_prompt(row) for row in batch]))
        pairs += [(row["id"], feature) for row, feature in zip(batch, read.features.cpu().numpy(), strict=True)]
    return pairs
