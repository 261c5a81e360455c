"""From the command line to checked dataclasses: `x.yaml`, `--config x.yaml` or `--config=x.yaml`, then `--key value`.

Input: a YAML recipe and overrides. Output: one filled dataclass per group of options, or one clear sentence.
"""

import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rbft_trl.errors import COMMAND_LINE, PLACES, SEARCHED, UserError, places_of, searched
from rbft_trl.options import anchored, check_key, checked, fit, options_of, read_text
from rbft_trl.setups import check_no_setup, read_setup
from rbft_trl.yaml_file import read_mapping

EXAMPLE = "recipes/README.md lists the recipes to copy"
SETUP = "File of what every stage shares: base, clips and frames, adapter, rates, batch. The recipe's own lines win."


def parse_recipe(argv: Sequence[str], *classes: type, given_by: str = COMMAND_LINE) -> tuple[Any, ...]:
    """Reads a recipe, the setup that it names and overrides into dataclasses; the later of these wins.

    Relative paths of cards, models, setups and recipes in a file start at its folder (or one of two above it, see
    `anchored`), so that it runs from any directory. Paths on the command line, and what runs write or read of one
    another, start at the current folder.

    Args:
        argv (`Sequence[str]`): What stands after the script's name.
        classes (`type`): Dataclasses that share the keys of the recipe.
        given_by (`str`, *optional*): Where the overrides come from, for messages.

    Returns:
        `tuple`: one instance per class, in their order.

    Raises:
        UserError: for a missing file, an unknown or renamed key, a wrong type or a value that is not a choice.
    """
    if {"-h", "--help"} & set(argv):
        print_help(classes)
    path, overrides = split_argv(list(argv))
    known = options_of(classes)
    SEARCHED.clear()
    raw = read_mapping(path, what="recipe", example=EXAMPLE) if path else {}
    if path:
        check_no_setup(raw, overrides, path, known)
    setup = None if "setup" in known else take_setup(raw, overrides, path)
    shared = read_setup(setup) if setup else {}
    values = {key: value for key, value in shared.items() if key in known}
    values |= checked(raw, known, path) if path else {}
    for key, text in overrides.items():
        check_key(key, known, given_by)
        place = f"--{key}" if given_by == COMMAND_LINE else f"{given_by}: '{key}'"
        values[key] = fit(read_text(text, known[key], key), known[key], place)
        if known[key][0].metadata.get("path"):
            paths = values[key] if isinstance(values[key], list) else [text]
            SEARCHED.update({path: [os.getcwd()] for path in paths if not os.path.isabs(path)})
    PLACES.clear()
    PLACES.update(
        dict.fromkeys(shared, str(setup)) | dict.fromkeys(raw, str(path)) | dict.fromkeys(overrides, given_by)
    )
    try:
        return tuple(cls(**{k: v for k, v in values.items() if k in cls.__dataclass_fields__}) for cls in classes)
    except (UserError, ValueError, TypeError) as error:  # TRL's and transformers' own checks of their arguments too
        message = " ".join(str(error).split())
        places = places_of(message) or [str(part) for part in (path, overrides and given_by) if part] or [given_by]
        place = " with ".join(sorted(places, key=given_by.__eq__))  # files first
        raise UserError(f"{place}: {message}") from (None if isinstance(error, UserError) else error)


def take_setup(raw: dict[str, Any], overrides: dict[str, str], recipe: Path | None) -> Path | None:
    """The setup that the command line or else the recipe names (None for none); the key is taken out of both."""
    named, given = raw.pop("setup", None), overrides.pop("setup", None)
    if given is not None:
        return _given_setup(given, recipe) if given != "null" else None
    if named is None:
        return None
    if not isinstance(named, str) or not (file := Path(anchored(named, recipe))).is_file():
        raise UserError(
            f"{recipe}: the setup {named!r} is no file{searched(named)}; name one from this recipe's folder, e.g. "
            "setup: setups/qlora_24gb.yaml (recipes/README.md lists them)"
        )
    return file


def _given_setup(given: str, recipe: Path | None) -> Path:
    """A setup of the command line, from the current folder.

    Raises:
        UserError: if it is no file; with its path, if it lies beside the recipe.
    """
    if (file := Path(given)).is_file():
        return file
    place = (
        "" if file.is_absolute() else f" in the current folder '{os.getcwd()}', where paths of the command line start"
    )
    beside = anchored(given, recipe) if recipe else given
    way = beside if beside != given else "recipes/setups/qlora_24gb.yaml (recipes/README.md lists them)"
    raise UserError(f"the setup '{given}' is no file{place}; write --setup {way}")


def words_of(settings: dict[str, Any]) -> list[str]:
    """Settings as the words of a command line, which `parse_recipe` reads back as they were."""
    return [
        word
        for key, value in settings.items()
        for word in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]


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
    print(textwrap.fill(f"setup: {SETUP}", width=110, subsequent_indent="  "))
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
