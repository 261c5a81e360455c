"""The calls to the Hub that a push makes, with the real client; every failure is one sentence.

Input: a folder and a repository. Output: one commit, or none if nothing has changed.
"""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoFile,
    get_session,
    hf_hub_download,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from rbft_trl.data.jsonl import read_json
from rbft_trl.errors import UserError
from rbft_trl.hub.clean import is_public
from rbft_trl.model.public import PublicBase

NO_ANSWER = 120.0  # seconds without a byte; the client's own default is to wait for ever
RECORD = "rbft.json"


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turns whatever the client raises into one sentence, and lets no call wait for ever.

    Raises:
        UserError: with the reason and the way out.
    """
    get_session().timeout = NO_ANSWER
    try:
        yield
    except UserError:
        raise
    except HFValidationError as error:
        raise UserError(f"{what} failed: {_line(error)}") from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{what} failed: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What went wrong and what helps, from the status or the kind of an error or of its cause."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    response = next((e.response for e in chain if isinstance(e, HfHubHTTPError) and e.response is not None), None)
    if response is not None:
        status = response.status_code
        if status in (401, 403):
            return f"the Hub refuses the token ({status}); run `hf auth login` with a token that may write there"
        if status == 404:
            return "the Hub does not know it (404); correct the id, or log in if it is private"
        if status == 409:
            return "another commit or repository came in between (409); push again"
        if status == 429 or status >= 500:
            return f"the Hub has a fault or too much to do ({status}); push again later"
        return f"the Hub says {status}: {_line(error)}"
    if any(isinstance(e, httpx2.TimeoutException) for e in chain):
        return f"the Hub did not answer for {NO_ANSWER:.0f} s; push again later"
    if any(isinstance(e, (httpx2.HTTPError, ConnectionError)) for e in chain):
        return f"the connection to the Hub broke or could not be made ({type(chain[-1]).__name__}); push again"
    return _line(error)


def upload(folder: Path, repo: str, *, private: bool, message: str) -> tuple[str, bool]:
    """Makes the repository if there is none, and puts the folder there in one commit.

    Files of an earlier push that are not in this folder are deleted in the same commit; other files (a license, a
    discussion's picture) stay.

    Returns:
        `tuple`: the id of the commit, and whether anything changed.

    Raises:
        UserError: if the push fails, or if a repository that is public already is asked to be private.
    """
    api = HfApi()
    with told(f"the push to '{repo}'"):
        api.create_repo(repo, private=private, exist_ok=True)
        before = api.model_info(repo)
        if private and before.private is False:
            raise UserError(
                f"'{repo}' is public already, and a push is private unless asked; say --private false "
                "(hub_private_repo: false in a recipe), or make it private in its settings"
            )
        files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
        there = [sibling.rfilename for sibling in before.siblings or []]
        if "metrics.json" in there and "metrics.json" not in files:
            warnings.warn(
                f"'{repo}' tells the metrics of an earlier push, and this one brings none, so they are removed there; "
                "push again with --eval to tell them",
                stacklevel=2,
            )
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationDelete(name) for name in there if is_public(name) and name not in files
        ]
        operations += [CommitOperationAdd(name, file) for name, file in sorted(files.items())]
        commit = api.create_commit(repo, operations, commit_message=message)
    return commit.oid, commit.oid != before.sha


def base_on_hub(name: str, revision: str | None, local: Path | None) -> PublicBase:
    """The commit of a base on the Hub; its weights must be those of the local folder, if there is one.

    The Hub lists the hash of every file, so nothing is downloaded for that.

    Raises:
        UserError: if there is no such base, or it is another one.
    """
    api = HfApi()
    with told(f"looking up the base '{name}'"):
        commit = api.model_info(name, revision=revision).sha
        entries = api.list_repo_tree(name, revision=commit, recursive=True) if local else []
        there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    assert commit is not None, "the Hub names the commit of every revision"
    for file in sorted([*local.glob("*.safetensors"), local / "config.json"]) if local else []:
        entry = there.get(file.name)
        if entry is None or not _same(file, entry):
            raise UserError(
                f"'{file.name}' of '{name}' on the Hub is not that of the base here ('{local}'); name the base that "
                "it was trained on with --base_id and --base_revision, or merge the adapter and push that"
            )
    return PublicBase(name, commit)


def _same(file: Path, entry: RepoFile) -> bool:
    if entry.lfs is not None:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == entry.lfs.sha256
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == entry.blob_id  # as git names a file


def parent_on_hub(name: str, weights: str) -> str:
    """`user/name@commit` of a pushed parent.

    Raises:
        UserError: if what lies there has other weights than the parent had.
    """
    repo, _, revision = name.partition("@")
    with told(f"looking up the parent '{name}'"):
        commit = HfApi().model_info(repo, revision=revision or None).sha
        file = Path(hf_hub_download(repo, RECORD, revision=commit))
    found = read_json(file).get("weights")
    if found != weights:
        raise UserError(f"the parent had the weights {weights}, but those in '{name}' are {found}; correct --parent")
    return f"{repo}@{commit}"


def _line(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
