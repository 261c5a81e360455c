"""From a run's folder to a folder that strangers can use: files that are known to be clean, recipes, record, card.

Input: a checkpoint (left as it is). Output: another folder, checked by rbft_trl/hub/clean.py.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from rbft_trl.data.jsonl import read_json, write_json, write_text
from rbft_trl.data.task import CARD_FILE, TaskCard
from rbft_trl.errors import UserError
from rbft_trl.evidence.calibration import CALIBRATION_FILE
from rbft_trl.evidence.card import model_card
from rbft_trl.hub.clean import check_clean
from rbft_trl.model.fetch import PROCESSOR, WEIGHTS
from rbft_trl.model.provenance import RECORD_FILE
from rbft_trl.model.public import PublicBase, public_record, rationales_text, recipe_text

NEEDED = [("tokenizer.json", "vocab.json"), ("tokenizer_config.json",)]  # one of each
NEEDED += [("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")]


@dataclasses.dataclass(frozen=True)
class Publication:
    """What is told of a model beside its own record.

    Args:
        repo (`str`): `user/name`.
        base (`PublicBase`, *optional*): None where full weights need none that is on the Hub.
        init (`str`, *optional*): `user/name@commit` of the parent, `base`, or None for a parent that was not pushed.
        license (`str`, *optional*): Of the card; `unknown` if left out.
        evaluation (`Path`, *optional*): Folder that eval.py wrote.
        answer (`list`, *optional*): What the card's snippet printed, if it was run.
    """

    repo: str
    base: PublicBase | None
    init: str | None
    license: str | None = None
    evaluation: Path | None = None
    answer: list[dict[str, Any]] | None = None


def take_files(source: Path, out: Path) -> None:
    """Weights, processor and temperature of a checkpoint, under second names: nothing is written in `source`."""
    for file in sorted(source.iterdir()):
        if file.is_file() and any(file.match(pattern) for pattern in (*WEIGHTS, *PROCESSOR, CALIBRATION_FILE)):
            _link_or_copy(file, out / file.name)


def finish_folder(source: Path, record: dict[str, Any], card: TaskCard, told: Publication, out: Path) -> None:
    """Adds everything else, and checks all of it; the same input gives the same bytes.

    Args:
        source (`Path`): Where the checkpoint is, for messages.
        record (`dict`): Its rbft.json, whole.
        card (`TaskCard`): The card that it was trained with.
        told (`Publication`): What is told of it.
        out (`Path`): What `take_files` wrote.

    Raises:
        UserError: if it cannot be used elsewhere, or would give away a path or a secret.
    """
    if record.get("adapter_on"):
        raise UserError(
            f"the adapter in '{source}' belongs on merged weights that only this machine has; merge it too, with "
            "rbft_trl/merge.py, and push the result"
        )
    for names in NEEDED:
        if not any((out / name).is_file() for name in names):
            raise UserError(f"'{source}' lacks {names[0]}, so nobody could use it; copy the whole folder of the run")
    metrics = read_metrics(told.evaluation, record)
    _rewrite(out / "adapter_config.json", _base_keys(told.base) if told.base else {})
    _rewrite(out / "config.json", {})
    public = public_record(record, told.base, told.init)
    write_json(out / RECORD_FILE, public)
    card.save(out)
    _write_training_card(out, public)
    _write_recipes(out, record, told)
    if metrics is not None and told.evaluation is not None:
        write_json(out / "metrics.json", metrics)
        shutil.copyfile(told.evaluation / "confusion.png", out / "confusion.png")
    calibration = read_json(out / CALIBRATION_FILE) if (out / CALIBRATION_FILE).is_file() else None
    write_text(out / "README.md", model_card(public, card, metrics, calibration=calibration, **_of_card(told)))
    check_clean(out, own=_places_of(source, record))


def read_metrics(evaluation: Path | None, record: dict[str, Any]) -> dict[str, Any] | None:
    """metrics.json of an evaluation of these very weights.

    Raises:
        UserError: if it is of other weights, or not there.
    """
    if evaluation is None:
        return None
    for name in ("metrics.json", "confusion.png"):
        if not (evaluation / name).is_file():
            raise UserError(
                f"--eval '{evaluation}' holds no {name}; name the output_dir of a finished rbft_trl/eval.py"
            )
    metrics = read_json(evaluation / "metrics.json")
    tested = (metrics.get("settings") or {}).get("checkpoint")
    if tested != record["weights"]:
        raise UserError(
            f"--eval '{evaluation}' tested the weights {tested}, but those that are pushed are {record['weights']}; "
            "evaluate this checkpoint, or name its evaluation"
        )
    if metrics.get("frame_order", "original") != "original":
        raise UserError(f"--eval '{evaluation}' has {metrics['frame_order']} frames, a diagnostic; name another")
    if metrics["confusion"]["labels"] != record["labels"]:
        raise UserError(f"--eval '{evaluation}' has other labels than the model; name an evaluation on its own card")
    return metrics


def _link_or_copy(file: Path, to: Path) -> None:
    """A second name for the same file where that is possible (weights are large), else a copy."""
    try:
        os.link(os.path.realpath(file), to)
    except OSError:
        shutil.copyfile(file, to)


def _rewrite(file: Path, keys: dict[str, str]) -> None:
    """adapter_config.json names the base by its id on the Hub (transformers#33922), config.json no folder."""
    if file.is_file():
        config = {key: value for key, value in read_json(file).items() if key != "_name_or_path"}
        write_json(file, config | keys)  # by renaming: the run's own file, of which this is a second name, stays


def _places_of(source: Path, record: dict[str, Any]) -> tuple[str, ...]:
    """Where things are on this machine: texts that must not be in what is pushed."""
    named = [str(source.resolve()), str(Path.home()), os.getcwd(), record["model_name_or_path"] or ""]
    named += [str(record["recipe"].get(key) or "") for key in ("task", "output_dir", "rationales", "init")]
    return tuple(place for place in named if place.startswith(("/", "~", "..")))


def _of_card(told: Publication) -> dict[str, Any]:
    base = told.base and f"{told.base.id}@{told.base.revision}"
    return {"repo": told.repo, "base": base, "init": told.init, "license": told.license, "answer": told.answer}


def _base_keys(base: PublicBase) -> dict[str, str]:
    return {"base_model_name_or_path": base.id, "revision": base.revision}


def _write_training_card(out: Path, public: dict[str, Any]) -> None:
    """The card with its data, where that is a dataset of the Hub: what the recipe of the folder names."""
    source = (public.get("data") or {}).get("source")
    if source:
        text = (out / CARD_FILE).read_text(encoding="utf-8")
        data = yaml.safe_dump({"data": json.loads(json.dumps(source))}, sort_keys=False, allow_unicode=True)
        write_text(out / "training_card.yaml", text + data)


def _write_recipes(out: Path, record: dict[str, Any], told: Publication) -> None:
    seen = ", ".join(f"{name} {version}" for name, version in sorted(record["versions"].items()))
    data = "Its data are a dataset of the Hub"
    if not (out / "training_card.yaml").is_file():
        data = "The clips are not shared: --task names your copy of task_card.yaml with a `data` part"
    notes = [f"What {told.repo} was trained with ({record['target']}); options at their default are left out.", data]
    if told.init is None:
        notes.append(
            f"The parent (weights {record['init']}) was a folder that was not pushed: --init names your stage 1."
        )
    notes += ["Command: accelerate launch rbft_trl/sft.py recipe.yaml", f"Seen with: {seen}"]
    write_text(out / "recipe.yaml", recipe_text(record, told.base, told.init, notes=notes))
    notes = ["The rationales that stage 1 was trained on; run it before recipe.yaml.", data]
    notes += ["Command: accelerate launch rbft_trl/rationales.py rationales.yaml"]
    if text := rationales_text(record, told.base, notes=notes):
        write_text(out / "rationales.yaml", text)
