"""What of a checkpoint's record strangers may see: no local paths, no names of groups, the base by its id on the Hub.

Input: rbft.json. Output: the record and the recipes of a folder that can be given away.
"""

import dataclasses
from typing import Any

import yaml
from transformers.trainer_pt_utils import AcceleratorConfig

from rbft_trl.configs import AdapterArguments, DataArguments, ModelArguments, StageArguments
from rbft_trl.model.provenance import hashed
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.training_config import IGNORED_BY_US, TrainingConfig

GROUPS = {
    "Stage arguments": StageArguments,
    "Model arguments": ModelArguments,
    "LoRA arguments": AdapterArguments,
    "Data arguments": DataArguments,
    "SFT trainer config": TrainingConfig,
}
# Of one machine or one person; what they were does not change what is trained.
PERSONAL = {"output_dir", "run_name", "project", "report_to", "resume_from_checkpoint", "local_rank", "debug"}
PERSONAL |= {"task", "rationales", "init", "model_name_or_path", "model_revision", "disable_tqdm", "log_on_each_node"}
PERSONAL |= {"deepspeed", "fsdp", "fsdp_config", "ddp_backend", "ddp_timeout", "dataloader_pin_memory"}
PREFIXES = ("hub_", "push_to_hub", "trackio_", "log_level")
KEPT = ("frames", "definitions", "load_in_4bit", "adapters", "shots", "draw", "labels", "target", "uses_text", "init")
KEPT += ("trained_on_files", "selected_by_files", "steps", "presentations", "seconds", "best_validation", "curves")
KEPT += (
    "rationales",
    "weights",
    "card",
    "versions",
    "base",
    "merged_from",
    "merged_check",
    "data",
    "parents",
    "unfinished",
)


@dataclasses.dataclass(frozen=True)
class PublicBase:
    """The base under its name on the Hub.

    Args:
        id (`str`): `organisation/name`.
        revision (`str`): The commit, or a branch where the Hub could not be asked.
    """

    id: str
    revision: str


def public_record(record: dict[str, Any], base: PublicBase | None, init: str | None) -> dict[str, Any]:
    """rbft.json without what is private: only the keys in `KEPT`, groups as hashes, the resolved recipe made public.

    Args:
        record (`dict`): rbft.json of a run.
        base (`PublicBase`, *optional*): None if full weights need no base.
        init (`str`, *optional*): `user/name@commit` of the parent, `base`, or None for a parent that was not pushed.
    """
    public = {key: record[key] for key in KEPT if key in record}
    for key in ("trained_on", "selected_by"):
        public[key] = sorted({hashed(group) for group in record[key]})
    public |= {"model_name_or_path": base.id if base else None, "adapter_on": None}
    public["base_hub"] = f"{base.id}@{base.revision}" if base else None
    public["parents"] = [
        {key: value for key, value in parent.items() if key != "hub_model_id"} for parent in record.get("parents", [])
    ]
    options = public_options(record, base, init)
    return public | {"recipe": {key: value for group in options.values() for key, value in group.items()}}


def public_options(record: dict[str, Any], base: PublicBase | None, init: str | None) -> dict[str, dict[str, Any]]:
    """The resolved recipe by groups: every option of the run, but for what belongs to one machine or person."""
    used, name = record["recipe"], record["target"]
    own: dict[str, Any] = {"output_dir": f"outputs/{name}", "model_name_or_path": base.id if base else None}
    own |= {"model_revision": base.revision if base else None, "init": init, "task": task_file(record)}
    own |= {"rationales": None if name == "label" else "outputs/rationales.jsonl", "report_to": "none"}
    if used.get("bf16") or used.get("use_cpu"):
        used = {key: value for key, value in used.items() if key != "bf16"}  # as it is by default on such a machine
    groups = {}
    for title, cls in GROUPS.items():
        specs = {spec.name: spec for spec in dataclasses.fields(cls) if spec.init}
        kept = {key: used[key] for key in specs if key in used and not _is_left_out(key)}
        groups[title] = kept | {key: own[key] for key in specs if key in own}
    return groups


def task_file(record: dict[str, Any]) -> str:
    """The card that a pushed recipe names: with the data where they are a dataset of the Hub, else without."""
    return "training_card.yaml" if (record.get("data") or {}).get("source") else "task_card.yaml"


def recipe_text(record: dict[str, Any], base: PublicBase | None, init: str | None, *, notes: list[str]) -> str:
    """recipe.yaml: what the run used, without the options that stand at their default."""
    lines = [f"# {note}" for note in notes]
    for title, group in public_options(record, base, init).items():
        defaults = _defaults(GROUPS[title])
        set_here = {key: value for key, value in group.items() if not _is_default(key, value, defaults[key])}
        lines += ["", f"# {title}", _yaml(set_here)] if set_here else []
    return "\n".join(lines).rstrip() + "\n"


def rationales_text(record: dict[str, Any], base: PublicBase | None, *, notes: list[str]) -> str | None:
    """rationales.yaml, the recipe of stage 0 that stage 1 was trained on, where that is known."""
    stage0 = next((p["rationales"] for p in [record, *record.get("parents", [])] if p.get("rationales")), None)
    if stage0 is None or base is None:
        return None
    options = public_options(record, base, None)
    used = {spec.name for spec in dataclasses.fields(RationaleArguments)}
    own = {key: value for key, value in stage0["options"].items() if key in used}
    own |= {"checks": stage0["checks"], "output_file": "outputs/rationales.jsonl"}
    here = ("dtype", "load_in_4bit", "attn_implementation")
    precision = {} if stage0.get("served") else dict(zip(here, stage0["precision"], strict=True))
    notes = [*notes, "An OpenAI-compatible server wrote the rationales: set server_url."] if not precision else notes
    lines = [f"# {note}" for note in notes]
    for title, values in (
        ("Model arguments", options["Model arguments"] | precision),
        ("Data arguments", options["Data arguments"]),
        ("Rationale arguments", own),
    ):
        cls = GROUPS.get(title, RationaleArguments)
        lines += [
            "",
            f"# {title}",
            _yaml({k: v for k, v in values.items() if not _is_default(k, v, _defaults(cls)[k])}),
        ]
    return "\n".join(lines).rstrip() + "\n"


def _is_left_out(key: str) -> bool:
    return key in PERSONAL or key in IGNORED_BY_US or key.startswith(PREFIXES)


def _is_default(key: str, value: Any, default: Any) -> bool:
    """Whether an option may be left out. No `TrainingConfig` is made for that: it would reset accelerate's state, and
    a checkpoint is pushed while its run goes on."""
    if key == "accelerator_config":
        default = AcceleratorConfig().to_dict()
    unset = value is None or (value in (False, [], {}) and default is None and key != "bf16")
    return unset or value == getattr(default, "value", default)


def _defaults(cls: type) -> dict[str, Any]:
    specs = dataclasses.fields(cls)
    return {
        spec.name: spec.default_factory() if spec.default is dataclasses.MISSING else spec.default for spec in specs
    }


def _yaml(values: dict[str, Any]) -> str:
    """Sorted `key: value` lines, a list or mapping on one line."""
    lines = []
    for key, value in sorted(values.items()):
        block = not isinstance(value, (list, dict))
        lines.append(
            yaml.safe_dump({key: value}, default_flow_style=not block, allow_unicode=True, width=1000).strip()
        )
    return "\n".join(line if not line.startswith("{") else line[1:-1] for line in lines)
