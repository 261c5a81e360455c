"""From the command line to checked dataclasses: `x.yaml`, `--config x.yaml` or `--config=x.yaml`, then `--key value`.

Input: a YAML recipe and overrides. Output: one filled dataclass per group of options, or one clear sentence.
"""

import dataclasses
import sys
import textwrap
import types
import typing
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from rbft_trl.errors import UserError, nearest
from rbft_trl.yaml_file import read_mapping

EXAMPLE = "recipes/README.md lists the recipes to copy"
RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "torch_dtype": "dtype",
    "max_seq_length": "max_length",
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps (a number below 1 is a share of all steps)",
    "overwrite_output_dir": "resume_from_checkpoint (or a new output_dir)",
    "logging_dir": "report_to (the tracker's own variables name the folder)",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "tokenizer_name": "model_name_or_path (processor and weights belong together)",
    "lora_target_modules": "train_parts (llm, merger, vision)",
    "dataset_name": "task (a task card says where the data is)",
    "attn_impl": "attn_implementation",
    "group_by_length": "train_sampling_strategy (random or sequential)",
}


def parse_recipe(argv: Sequence[str], *classes: type) -> tuple[Any, ...]:
    """Reads a recipe and overrides into dataclasses.

    Relative paths of cards, models and recipes start at the folder that holds the `recipes` folder of this recipe (so
    that it runs from any directory), or at its own folder if it lies elsewhere, as a pushed one does; at the current
    folder if nothing is there. Paths on the command line, and what runs write or read of one another, start at the
    current folder.

    Args:
        argv (`Sequence[str]`): What stands after the script's name.
        classes (`type`): Dataclasses that share the keys of the recipe.

    Returns:
        `tuple`: one instance per class, in their order.

    Raises:
        UserError: for a missing file, an unknown or renamed key, a wrong type or a value that is not a choice.
    """
    if {"-h", "--help"} & set(argv):
        print_help(classes)
    path, overrides = split_argv(list(argv))
    specs = {spec.name: spec for cls in classes for spec in dataclasses.fields(cls) if spec.init}
    hints = {name: hint for cls in classes for name, hint in typing.get_type_hints(cls).items()}
    values = {}
    for key, value in (read_mapping(path, what="recipe", example=EXAMPLE) if path else {}).items():
        _check_key(key, specs, str(path))
        value = _fit(value, hints[key], specs[key], f"{path}: '{key}'")
        values[key] = _anchored(value, path) if specs[key].metadata.get("path") else value
    for key, text in overrides.items():
        _check_key(key, specs, "the command line")
        values[key] = _fit(_read_text(text, hints[key], key), hints[key], specs[key], f"--{key}")
    place = f"{path}{' with the command line' if overrides else ''}" if path else "the command line"
    try:
        return tuple(cls(**{k: v for k, v in values.items() if k in cls.__dataclass_fields__}) for cls in classes)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    except (ValueError, TypeError) as error:  # TRL's and transformers' own checks of their arguments
        raise UserError(f"{place}: {' '.join(str(error).split())}") from error


def print_help(classes: Sequence[type]) -> None:
    """Prints every option of an entry with its default, then ends the process."""
    print(f"usage: {Path(sys.argv[0]).name} x.yaml [--key value ...]; the keys of the recipe are:\n")
    for cls in classes:
        print(f"{cls.__name__}: {(cls.__doc__ or '').strip().splitlines()[0]}")
        own = vars(cls).get("__annotations__", {})
        for spec in dataclasses.fields(cls):
            if spec.name in own:
                default = spec.default if spec.default is not dataclasses.MISSING else spec.default_factory()
                print(f"  {spec.name} [{default}]: {spec.metadata.get('help', '')}")
        inherited = [name for name in cls.__dataclass_fields__ if name not in own]
        if inherited:
            text = f"and the options of {cls.__mro__[1].__name__}: {', '.join(sorted(inherited))}"
            print(textwrap.fill(text, width=110, initial_indent="  ", subsequent_indent="    "))
        print()
    raise SystemExit(0)


def split_argv(argv: list[str]) -> tuple[Path | None, dict[str, str]]:
    """Splits a command line into the recipe's path and the overrides `{key: text}`."""
    recipes, overrides = [], {}
    while argv:
        word = argv.pop(0)
        if word.startswith("-") and not word.startswith("--"):
            raise UserError(f"'{word}' is no option; write --key value, or ./{word} for a recipe of that name")
        if not word.startswith("--"):
            recipes.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = argv.pop(0) if argv and not argv[0].startswith("--") else "true"
        if key == "config":
            recipes.append(value)
        elif key.replace("-", "_") in overrides:
            raise UserError(f"--{key} stands on the command line twice; keep one")
        else:
            overrides[key.replace("-", "_")] = value
    if len(recipes) > 1:
        raise UserError(f"'{recipes[1]}' is a second recipe beside '{recipes[0]}'; give one recipe, then --key value")
    return (Path(recipes[0]) if recipes else None), overrides


def _check_key(key: str, specs: dict[str, Any], place: str) -> None:
    if key in RENAMED:
        raise UserError(f"{place}: the key '{key}' is now called {RENAMED[key]}")
    if key in specs:
        return
    raise UserError(f"{place}: unknown key '{key}'{nearest(key, specs)}; remove it or correct its name")


def _anchored(value: Any, recipe: Path | None) -> Any:
    """A recipe's relative path, from the folder above `recipes/` or else the recipe's own, if something is there; a
    Hub id stays as it is."""
    if not isinstance(value, str) or recipe is None or value == "base":
        return value
    above = [folder.parent for folder in recipe.resolve().parents if folder.name == "recipes"]
    found = (above[0] if above else recipe.parent) / value
    return str(found) if found.exists() else value


def _read_text(text: str, hint: Any, key: str) -> Any:
    """A value of the command line: as it stands where the option is text, else as YAML reads it."""
    if hint is str or set(typing.get_args(hint)) == {str, types.NoneType}:
        return None if text == "null" and hint is not str else text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise UserError(
            f"--{key} is {text!r}, which is not valid YAML; quote it as a whole, e.g. --key '[a, b]'"
        ) from error


def _fit(value: Any, hint: Any, spec: Any, place: str) -> Any:
    """`value` as `hint` wants it; '1e-4' is a string to YAML and becomes a number here."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    enums = tuple(kind for kind in options if isinstance(kind, type) and issubclass(kind, Enum))
    if enums:  # transformers writes `SomeEnum | str` and means the enum
        options = tuple(kind for kind in options if kind is not str)
    choices = spec.metadata.get("choices")
    if spec.name == "resume_from_checkpoint" and isinstance(value, bool):
        value = str(value).lower()  # a path, or true: transformers types it as text
    for kind in options:
        fitted = _as_kind(value, kind)
        if fitted is not _MISFIT:
            if choices and fitted is not None and fitted not in choices:
                raise UserError(f"{place} is {value!r}{nearest(value, choices)}; choose one of {choices}")
            return fitted
    wanted = " or ".join("null" if k is types.NoneType else getattr(k, "__name__", str(k)) for k in options)
    if enums:
        wanted = " or ".join(str(member.value) for kind in enums for member in kind)
    raise UserError(f"{place} is {value!r} ({type(value).__name__}) but must be {wanted}")


_MISFIT = object()


def _as_kind(value: Any, kind: Any) -> Any:
    origin = typing.get_origin(kind) or kind
    if origin is Any:
        return value
    if not isinstance(origin, type):
        return value
    if issubclass(origin, Enum):
        members = {str(member.value): member.value for member in origin}
        return members.get("no" if value is False else str(value), _MISFIT)  # YAML reads `no` without quotes as false
    if origin is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            return _MISFIT
    if origin is int and isinstance(value, bool):
        return _MISFIT
    if not isinstance(value, origin):
        return _MISFIT
    inner = typing.get_args(kind)
    if origin is list and inner and not all(isinstance(item, inner[0]) for item in value):
        return _MISFIT
    return value
