"""Where the clips are: the `data` part of a task card, read and checked.

Input: its mapping. Output: a `DataSource`; rbft_trl/data/rows.py turns it into rows.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbft_trl.data.tables import COLUMNS
from rbft_trl.errors import UserError
from rbft_trl.yaml_file import check_keys

KEYS = {
    "root", "dataset", "revision", "annotations", "columns", "classes", "group_pattern", "text_limit", "validation",
    "test", "split_seed", "how_to_get",
}  # fmt: skip
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
SPLITS = tuple(dict.fromkeys(SPLIT_NAMES.values()))
TEXT_LIMIT = 500


@dataclass(frozen=True)
class DataSource:
    """Where the labelled clips are.

    Args:
        root (`Path`): Folder that holds the clips; every path in the annotation file is relative to it. A card may
            name a `dataset` of the Hub (and its `revision`) instead: its files are downloaded, and are the root.
        within (`Path`, *optional*): Where links may lead, if not below the root (the Hub's cache links to its blobs).
        annotations (`Path` or `dict[str, Path]`, *optional*): A table of the clips, or one per split. Without it the
            folders below `root` say it (rbft_trl/data/folders.py).
        columns (`dict[str, str]`, *optional*): Our column → the table's, where its name is unusual.
        classes (`tuple[str, ...]`, *optional*): Class names by number, for tables that hold numbers.
        group_pattern (`str`, *optional*): Regular expression; its group 1 in a clip's path is the clip's group.
        text_limit (`int`): Most characters of the text that comes with a clip; longer ones are cut.
        validation (`float`, *optional*): Share of the labelled clips that is held out for validation if no
            split is given; 0.15 if left out. If only validation is not given, it is cut from train.
        test (`float`, *optional*): Share of the labelled clips that is held out for the test if no split is
            given; 0.15 if left out.
        split_seed (`int`, *optional*): Seed of that split; 0 if left out.
        how_to_get (`str`, *optional*): What to run or read if the clips are not there; shown in the message.
        public (`dict`, *optional*): This part of the card as it may travel: with a `dataset` of the Hub, at the
            commit that was used. None for a local folder.
    """

    root: Path
    within: Path | None = None
    annotations: Path | dict[str, Path] | None = None
    columns: dict[str, str] | None = None
    classes: tuple[str, ...] | None = None
    group_pattern: str | None = None
    text_limit: int = TEXT_LIMIT
    validation: float | None = None
    test: float | None = None
    split_seed: int | None = None
    how_to_get: str | None = None
    public: dict[str, Any] | None = None


def read_source(raw: object, path: Path) -> DataSource:
    """Checks the `data` part of the card at `path`.

    Raises:
        UserError: naming the key, its value and the way out.
    """
    check_keys(raw, KEYS, path, "'data'")
    assert isinstance(raw, dict)
    if ("root" in raw) == ("dataset" in raw):
        raise UserError(
            f"{path}: data.root is {raw.get('root')!r} but must be the folder that holds the clips (or name a dataset "
            "of the Hub as data.dataset, not both)"
        )
    if "revision" in raw and "dataset" not in raw:
        raise UserError(f"{path}: data.revision is {raw['revision']!r} but belongs to data.dataset; leave it out")
    for key in ("root", "dataset"):
        if key in raw and (not isinstance(raw[key], str) or not raw[key].strip()):
            raise UserError(
                f"{path}: data.{key} is {raw[key]!r} but must be the folder that holds the clips, or an id"
            )
    for key in ("classes", "group_pattern", "how_to_get", "revision"):
        if not isinstance(raw.get(key, ""), str):
            raise UserError(f"{path}: data.{key} is {raw[key]!r} but must be text; leave it out if there is none")
    for key in ("validation", "test"):
        share = raw.get(key, 0.15)
        if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share < 1:
            raise UserError(f"{path}: data.{key} is {share!r} but must be a share of the clips, from 0 to below 1")
    for key, least in (("split_seed", None), ("text_limit", 1)):
        number = raw.get(key, 1)
        if not isinstance(number, int) or isinstance(number, bool) or (least is not None and number < least):
            raise UserError(
                f"{path}: data.{key} is {number!r} but must be a whole number{' above 0' if least else ''}"
            )
    root = _root(raw, path)
    _check_pattern(raw.get("group_pattern"), path)
    kept = ("group_pattern", "text_limit", "validation", "test", "split_seed", "how_to_get")
    return DataSource(
        root=root,
        within=root.parents[1] if "dataset" in raw else None,
        public=raw | {"revision": root.name} if "dataset" in raw else None,  # the Hub's cache: snapshots/<commit>
        annotations=_annotations(raw.get("annotations"), root, path),
        columns=_columns(raw.get("columns"), path),
        classes=_classes(raw.get("classes"), root, path),
        **{key: raw[key] for key in kept if key in raw},
    )


def _root(raw: dict[str, Any], path: Path) -> Path:
    if "dataset" in raw:
        return fetch_dataset(raw["dataset"], raw.get("revision"), path)
    try:
        return (path.parent / Path(raw["root"]).expanduser()).resolve()
    except (RuntimeError, ValueError) as error:  # ~ of nobody, or a NUL
        raise UserError(f"{path}: data.root {raw['root']!r} is no path ({error}); correct it") from error


def fetch_dataset(name: str, revision: str | None, path: Path) -> Path:
    """Downloads the files of a dataset on the Hub, or finds them in the cache; clips must be files there.

    Raises:
        UserError: if there is no such dataset, or no way to it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: the dataset '{name}' does not come from the Hub ({said}); correct it") from error


def _annotations(raw: Any, root: Path, path: Path) -> Path | dict[str, Path] | None:
    if isinstance(raw, dict):
        check_keys(raw, set(SPLITS), path, "data.annotations")
        if not raw or not all(isinstance(file, str) and file for file in raw.values()):
            raise UserError(f"{path}: data.annotations is {raw!r} but must name a file for each split")
        return {split: root / file for split, file in raw.items()}
    if not isinstance(raw, str | None):
        raise UserError(
            f"{path}: data.annotations is {raw!r} but must be text; leave it out if there is none, or name a file per "
            "split: {train: a.csv, test: b.csv}"
        )
    return root / raw if raw else None


def _columns(raw: Any, path: Path) -> dict[str, str] | None:
    if raw is None:
        return None
    check_keys(raw, set(COLUMNS), path, "data.columns")
    for ours, theirs in raw.items():
        if not isinstance(theirs, str) or not theirs:
            raise UserError(f"{path}: data.columns.{ours} is {theirs!r} but must be the name of a column; use quotes")
    return raw


def _classes(raw: str | None, root: Path, path: Path) -> tuple[str, ...] | None:
    """The lines of the file that lists the classes, such as mmaction2's label map; line 1 is class 0."""
    if not raw:
        return None
    if not (root / raw).is_file():
        raise UserError(f"{path}: data.classes '{root / raw}' does not exist; name the file with one class per line")
    try:
        return tuple(line.strip() for line in (root / raw).read_text(encoding="utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise UserError(f"{root / raw} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _check_pattern(raw: str | None, path: Path) -> None:
    try:
        groups = re.compile(raw).groups if raw else 1
    except re.error as error:
        raise UserError(
            f"{path}: data.group_pattern '{raw}' is no regular expression ({error}); correct it"
        ) from error
    if groups != 1:
        raise UserError(
            f"{path}: data.group_pattern '{raw}' has {groups} groups; put one pair of () around the source"
        )
