"""The options that dataclasses declare, and what one line of a YAML file or command line becomes for them.

Input: a key and a value, from a recipe, a setup or the command line. Output: the value that the option wants.
"""

import dataclasses
import math
import os
import types
import typing
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from rbft_trl.errors import SEARCHED, UserError, nearest
from rbft_trl.renamed import GONE, NOT_TAKEN, RENAMED

Option = tuple[Any, Any]  # the dataclass field and its type
FOLDERS = 3  # that of the file and two above it: recipes/toy/x.yaml finds what lies beside recipes/


def options_of(classes: Sequence[type]) -> dict[str, Option]:
    """Every option of some dataclasses, by name."""
    return {
        spec.name: (spec, hints[spec.name])
        for cls in classes
        for hints in [typing.get_type_hints(cls)]
        for spec in dataclasses.fields(cls)
        if spec.init
    }


def check_key(key: str, known: dict[str, Option], place: str) -> None:
    """Refuses a key that is no option.

    Raises:
        UserError: with its new name, why it is gone, or the nearest right name.
    """
    if key in RENAMED:
        raise UserError(f"{place}: the key '{key}' is now called {RENAMED[key]}")
    if key in known:
        return
    if key in GONE:
        raise UserError(f"{place}: the key '{key}' is gone: {GONE[key]}; leave it out")
    raise UserError(
        f"{place}: unknown key '{key}'{nearest(key, known.keys() - NOT_TAKEN)}; remove it or correct its name"
    )


def checked(raw: dict[str, Any], known: dict[str, Option], file: Path) -> dict[str, Any]:
    """The lines of a YAML file, each key known, each value of its kind, relative paths found (see `anchored`)."""
    values = {}
    for key, value in raw.items():
        check_key(key, known, str(file))
        value = fit(value, known[key], f"{file}: '{key}'")
        values[key] = anchored(value, file) if known[key][0].metadata.get("path") else value
    return values


def anchored(value: Any, file: Path) -> Any:
    """A relative path that stands in a file: from that file's folder, or the nearest of the two folders above it where
    something is there, so that a folder of recipes can be copied and run from anywhere; else (a Hub id) as it is. Of a
    list each element."""
    if isinstance(value, list):
        return [anchored(one, file) for one in value]
    if not isinstance(value, str) or value in ("", "base"):
        return value
    # Not resolved: in the Hub's cache a file is a link to a blob that lies elsewhere.
    folders = list(Path(os.path.abspath(file)).parents)[:FOLDERS]
    found = next((str(folder / value) for folder in folders if (folder / value).exists()), None)
    if found is None and not os.path.isabs(value):
        SEARCHED[value] = [str(folder) for folder in folders]
    return value if found is None else found


def read_text(text: str, option: Option, key: str) -> Any:
    """A value of the command line: as it stands where the option is text, else as YAML reads it.

    Raises:
        UserError: if that is no YAML.
    """
    if _is_text(option):
        return None if text == "null" and option[1] is not str else text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise UserError(
            f"--{key} is {text!r}, which is not valid YAML; quote it as a whole, e.g. --key '[a, b]'"
        ) from error


def check_text(settings: dict[str, Any], known: dict[str, Option], place: str) -> None:
    """Settings of a file that are handed on as words of a command line, where a list would become text.

    Raises:
        UserError: if a text is something else.
    """
    for key, value in settings.items():
        if key in known and _is_text(known[key]):
            fit(value, known[key], f"{place}: '{key}'")


def _is_text(option: Option) -> bool:
    return option[1] is str or set(typing.get_args(option[1])) == {str, types.NoneType}


def fit(value: Any, option: Option, place: str) -> Any:
    """`value` as its option wants it; '1e-4' is a string to YAML and becomes a number here.

    Raises:
        UserError: if it has another kind, or is none of the choices.
    """
    spec, hint = option
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
    if float in options and _as_float(value) is not None:
        raise UserError(f"{place} is {value!r} but must be a finite number")
    for kind in options:
        if wrong := _wrong_inside(value, kind):
            raise UserError(f"{place} holds {wrong}")
    wanted = " or ".join(map(_name, options))
    if enums:
        wanted = " or ".join(str(member.value) for kind in enums for member in kind)
    raise UserError(f"{place} is {value!r} ({type(value).__name__}) but must be {wanted}{_as_list(value, options)}")


def _name(kind: Any) -> str:
    return "null" if kind is types.NoneType else getattr(kind, "__name__", str(kind))


def _wrong_inside(value: Any, kind: Any) -> str | None:
    """The first element of a list, or value of a mapping, that is of another kind than `kind` holds, in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin not in (list, dict) or not isinstance(value, origin):
        return None
    pairs = value.items() if origin is dict else ((None, item) for item in value)
    for key, item in pairs:
        if _as_kind(item, inner[-1]) is _MISFIT:
            where = "every element" if key is None else f"what stands under '{key}'"
            return f"{item!r} ({type(item).__name__}) but {where} must be {_name(inner[-1])}"
    return None


def _as_list(value: Any, kinds: tuple[Any, ...]) -> str:
    """The way out for `a,b` or `a` where a list is wanted."""
    if not isinstance(value, str) or list not in [typing.get_origin(kind) for kind in kinds]:
        return ""
    return f"; write '[{', '.join(value.strip('()').replace(',', ' ').split())}]'"


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
    if origin is float:
        number = _as_float(value)
        return number if number is not None and math.isfinite(number) else _MISFIT
    if origin is int and isinstance(value, bool):
        return _MISFIT
    if not isinstance(value, origin):
        return _MISFIT
    if _wrong_inside(value, kind) is not None:
        return _MISFIT
    return value


def _as_float(value: Any) -> float | None:
    """A number, also one that YAML reads as text; it may be infinite, or NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf
