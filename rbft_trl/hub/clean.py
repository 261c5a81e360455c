"""What may leave this machine: known files only, without paths of this machine, without tokens.

Input: a folder that is about to be pushed. Output: nothing, or one sentence that names the file and the way out.
"""

import fnmatch
import json
import os
import re
import struct
from pathlib import Path

from rbft_trl.errors import UserError
from rbft_trl.model.fetch import PUBLIC_FILES, VOCABULARY

SECRET_NAME = re.compile(  # as a word of the name, wherever it stands: MY_TOKEN_2, DB_PASS
    r"(?:^|_)(TOKENS?|SECRETS?|PASS(?:WORD|WD|PHRASE)?|PAT|(?:API|ACCESS|SECRET|PRIVATE)_?KEY|CREDENTIALS?)(?:_|\d|$)"
    r"|KEY$",
    re.IGNORECASE,
)
SECRETS = {
    "a Hugging Face token": r"hf_[A-Za-z0-9]{16,}",
    "an OpenAI-style key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a GitHub token": r"\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,})",
    "an AWS key": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google key": r"\bAIza[\w-]{30,}",
    "a Slack token": r"\bxox[abprs]-[\w-]{10,}",
    "a JSON Web Token": r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]+@",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
# `/a/b` that begins a path: not within a word, a URL, a closing tag or a relative path.
PATHS = re.compile(
    r"(?<![\w/.:<~@&;%-])/[\w.@~+-]+(?:/[\w.@~+-]+)+|(?<![\w/.])~/\w+|\bfile:/+\w|\b[A-Za-z]:(?:\\\\?\w+){2}"
)


def is_public(name: str) -> bool:
    """Whether a file of this name (with `/`, below the folder) is one of those that a push holds."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in PUBLIC_FILES)


def check_clean(folder: Path, *, own: tuple[str, ...] = ()) -> None:
    """Refuses a folder that holds an unknown file, a path of this machine or a secret.

    Args:
        folder (`Path`): What is about to be pushed.
        own (`tuple[str]`): Further texts that must not be in it, such as where the run's folder is.

    Raises:
        UserError: naming the file, what was found and the way out; a secret itself is not shown.
    """
    secrets = own_secrets()
    for file in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        name = file.relative_to(folder).as_posix()
        if file.is_symlink() or not is_public(name):
            raise UserError(f"'{name}' is no file of a pushed model; this is a bug of the project, please tell us")
        text = text_of(file)
        if kind := _secret_in(text, secrets):
            raise UserError(f"{name} holds {kind}, so nothing is pushed; take it out of the card or the recipe")
        if name not in VOCABULARY and (found := _path_in(text, own)):
            raise UserError(
                f"{name} holds '{found}', which looks like a path of this machine, so nothing is pushed; reword it in "
                "the task card or the recipe"
            )


def text_of(file: Path) -> str:
    """All of a text file; of a weight file the header, which may hold texts; nothing of a picture."""
    if file.suffix == ".safetensors":
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            return json.dumps(json.loads(stream.read(size)).get("__metadata__", {}))
    try:
        return "" if file.suffix == ".png" else file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file.name} is not UTF-8 (byte {error.start}), so nothing is pushed; save it so") from error


def own_secrets() -> dict[str, str]:
    """The tokens that this process knows and where each is from: the Hub's, and every variable that is called one."""
    from huggingface_hub import get_token

    known = {get_token() or "": "this machine's token of the Hub"}
    known |= {value: f"the value of ${key}" for key, value in os.environ.items() if SECRET_NAME.search(key)}
    return {value: where for value, where in known.items() if len(value) >= 8}


def _secret_in(text: str, own: dict[str, str]) -> str | None:
    if where := next((where for value, where in own.items() if value in text), None):
        return where
    return next((kind for kind, pattern in SECRETS.items() if re.search(pattern, text)), None)


def _path_in(text: str, own: tuple[str, ...]) -> str | None:
    if named := next((path for path in own if len(path) > 4 and path in text), None):
        return named
    found = PATHS.search(text)
    return found.group() if found else None
