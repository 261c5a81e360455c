"""Reading a YAML file that a person wrote: safe, UTF-8, and no key twice.

Input: a recipe or a task card. Output: a mapping, or one clear sentence.
"""

from pathlib import Path
from typing import Any

import yaml

from rbft_trl.errors import UserError, nearest, searched


class _OnceLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice in one mapping; PyYAML keeps the last and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (mark, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"line {mark.start_mark.line + 1}: the key '{key}' stands there twice; keep one")
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, *, what: str, example: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path (`Path`): The file.
        what (`str`): What it is, for messages: "recipe", "task card".
        example (`str`): What to copy or look at if it is missing.

    Raises:
        UserError: if the file is missing, no YAML, no mapping, or has a key twice.
    """
    if not path.is_file():
        raise UserError(f"the {what} '{path}' does not exist{searched(path)}; {example}")
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bad UTF-8, or a date that does not exist
        raise UserError(f"the {what} '{path}' is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"the {what} '{path}' holds no 'key: value' lines; {example}")
    return raw


def check_keys(raw: object, known: set[str], path: Path, what: str) -> None:
    """A part of a YAML file must be a mapping with known keys only.

    Raises:
        UserError: naming the key and the nearest right one.
    """
    if not isinstance(raw, dict):
        raise UserError(f"{path}: {what} must be a mapping of keys to values, not {type(raw).__name__}")
    for key in raw:
        if key not in known:
            raise UserError(f"{path}: unknown key '{key}' in {what}{nearest(key, known)}; known: {sorted(known)}")
