"""One push: base and parent looked up on the Hub, a clean folder in a temporary place, one commit.

Input: a checkpoint and options. Output: a commit, or (`to_folder`) only the folder.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from rbft_trl.hub.client import base_on_hub, parent_on_hub, upload
from rbft_trl.hub.folder import Publication, finish_folder, take_files
from rbft_trl.model.loading import base_fingerprint
from rbft_trl.model.public import PublicBase

Answer = Callable[[Path], list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class PushOptions:
    """Where to push, and what is told.

    Args:
        repo (`str`): `user/name`.
        private (`bool`): Whether a new repository is private.
        base_id (`str`, *optional*): Id on the Hub of a base that is a local folder here.
        base_revision (`str`, *optional*): Its commit; the newest one if left out.
        parent (`str`, *optional*): `user/name` of the pushed parent.
        license (`str`, *optional*): License field of the card.
        evaluation (`Path`, *optional*): Folder that eval.py wrote.
    """

    repo: str
    private: bool = True
    base_id: str | None = None
    base_revision: str | None = None
    parent: str | None = None
    license: str | None = None
    evaluation: Path | None = None


def push_folder(
    source: Path,
    record: dict[str, Any],
    card: TaskCard,
    options: PushOptions,
    *,
    ready: threading.Event | None = None,
    answer: Answer | None = None,
) -> str:
    """Pushes a checkpoint; returns the commit.

    Args:
        source (`Path`): The checkpoint, left as it is.
        record (`dict`): Its rbft.json.
        card (`TaskCard`): Its task card.
        options (`PushOptions`): Where to, and what is told.
        ready (`threading.Event`, *optional*): Set when the checkpoint itself is not needed any more.
        answer (`Callable`, *optional*): Runs the card's snippet on the folder.

    Raises:
        UserError: with the reason and the way out.
    """
    with _folder_of_its_own(source) as folder:
        take_files(source, folder)
        if ready is not None:
            ready.set()
        prepare(source, record, card, options, folder, answer=answer)
        what = f"step {record['steps']}" if record.get("unfinished") else record["target"]
        message = f"{card.name}: {what}, weights {record['weights']}"
        commit, changed = upload(folder, options.repo, private=options.private, message=" ".join(message.split())[:99])
    if changed:
        print(f"pushed '{source}' to '{options.repo}' ({'private' if options.private else 'public'}), commit {commit}")
    else:
        print(f"'{options.repo}' holds this very content already, commit {commit}: nothing to push")
    return commit


def prepare(
    source: Path,
    record: dict[str, Any],
    card: TaskCard,
    options: PushOptions,
    folder: Path,
    *,
    answer: Answer | None = None,
) -> None:
    """Makes a folder with the files of a checkpoint into one that can be given away.

    Raises:
        UserError: see `push_folder`.
    """
    base = find_base(source, record, options)
    told = Publication(options.repo, base, find_init(record, options), options.license, options.evaluation)
    finish_folder(source, record, card, told, folder)
    if answer is not None:
        finish_folder(source, record, card, dataclasses.replace(told, answer=answer(folder)), folder)


def find_base(source: Path, record: dict[str, Any], options: PushOptions) -> PublicBase | None:
    """The base under its name on the Hub, at one commit.

    Raises:
        UserError: if an adapter's base has no name there.
    """
    name = record["model_name_or_path"]
    if name and record["base"].startswith(f"{name}@"):  # it came from the Hub
        if options.base_id is not None:
            raise UserError(f"--base_id is '{options.base_id}' but '{source}' was trained on '{name}'; leave it out")
        known = record.get("base_commit") or record["recipe"].get("model_revision")
        return PublicBase(name, known) if known else base_on_hub(name, None, None)
    if options.base_id is not None:
        here = Path(name) if name and Path(name).is_dir() and base_fingerprint(name) == record["base"] else None
        if here is None:
            warnings.warn(
                f"the base '{name}' is not here any more (or has changed), so '{options.base_id}' was not compared "
                "with it",
                stacklevel=2,
            )
        return base_on_hub(options.base_id, options.base_revision, here)
    if record["adapters"]["use_peft"]:
        raise UserError(
            f"'{source}' is an adapter on the local folder '{name}', which nobody else has; name that base on the Hub "
            "with --base_id user/name, or merge the adapter with rbft_trl/merge.py and push the result"
        )
    return None


def find_init(record: dict[str, Any], options: PushOptions) -> str | None:
    """Where the recipe of the folder starts: `base`, the parent on the Hub, or None if it was not pushed.

    Raises:
        UserError: if the parent that was named is another one.
    """
    if record["init"] == "base":
        if options.parent is not None:
            raise UserError(f"--parent is '{options.parent}' but this stage began on the base; leave it out")
        return "base"
    parent = next(iter(record.get("parents", [])), {})
    named = options.parent or parent.get("hub")
    if named is not None:
        return parent_on_hub(named, record["init"])
    try:  # it may have been pushed during its own run
        return parent_on_hub(parent["hub_model_id"], record["init"]) if parent.get("hub_model_id") else None
    except UserError as error:
        warnings.warn(f"the parent is told as a local folder: {error}", stacklevel=2)
        return None


@contextlib.contextmanager
def _folder_of_its_own(source: Path) -> Iterator[Path]:
    """An empty folder for one push, locked while it lasts; those of pushes that were killed are removed first."""
    beside = _beside_the_run(source)
    for left in beside.glob(".push_*/lock") if beside else ():
        with contextlib.suppress(Timeout), FileLock(left, timeout=0):  # a push that is under way holds its lock
            shutil.rmtree(left.parent)
    with tempfile.TemporaryDirectory(prefix=".push_", dir=beside) as temporary, FileLock(Path(temporary) / "lock"):
        (folder := Path(temporary) / "files").mkdir()
        yield folder


def _beside_the_run(source: Path) -> Path | None:
    """A place on the same disk, so that weights get a second name and no copy; the system's own if it is closed."""
    folder = source.resolve().parent
    folder = folder.parent if source.name.startswith("checkpoint-") else folder
    return folder if os.access(folder, os.W_OK) else None
