"""Where a checkpoint is: a folder, or an id on the Hub whose files are downloaded, never a pickle among them.

Input: a folder, `user/name` or `user/name@revision`. Output: a folder.
"""

from pathlib import Path

from rbft_trl.errors import UserError

# The files of a pushed checkpoint: what may be uploaded, and all that is downloaded. No pickle, no optimizer state.
WEIGHTS = ("adapter_config.json", "adapter_model.safetensors", "model.safetensors", "model-*-of-*.safetensors")
WEIGHTS += ("model.safetensors.index.json", "config.json", "generation_config.json")
VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt")
PROCESSOR = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", *VOCABULARY)
PROCESSOR += ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
OURS = ("rbft.json", "task_card.yaml", "training_card.yaml", "prompts/label.txt", "prompts/rationale.txt")
OURS += (
    "prompts/hint.txt",
    "prompts/checklist.txt",
    "recipe.yaml",
    "rationales.yaml",
    "calibration.json",
    "metrics.json",
    "confusion.png",
)
PUBLIC_FILES = (*WEIGHTS, *PROCESSOR, *OURS, "README.md")
TOY_BASES = {("toy", "base"): "make base", ("toy", "open_base"): "python toy/open_base.py"}


def find_checkpoint(name: str, revision: str | None = None) -> Path:
    """A folder as it is; anything else is an id on the Hub, which is downloaded.

    Args:
        name (`str`): A folder, `user/name`, or `user/name@revision`.
        revision (`str`, *optional*): Branch, tag or commit.

    Raises:
        UserError: if it is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repo, _, after = name.partition("@")
    if after and revision is not None and after != revision:
        raise UserError(f"'{name}' names a revision and so does revision '{revision}'; give one of them")
    try:
        return Path(snapshot_download(repo, revision=revision or after or None, allow_patterns=list(PUBLIC_FILES)))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"'{name}' is no folder, and nothing of that id comes from the Hub ({said})") from error


def how_to_make(name: str) -> str:
    """`"; make the base with: …"` for a base of the toy domains, which a command makes; else an empty string."""
    command = TOY_BASES.get(Path(name).parts[-2:])
    return f"; make the base with: {command}" if command else ""


def is_hub_id(name: str) -> bool:
    """Whether this has the form of `user/name` or `user/name@revision` and is no folder here."""
    user, _, rest = name.partition("/")
    return bool(user.strip(".~") and rest and "/" not in rest) and not Path(name).exists()


def commit_of(name: str, revision: str | None) -> str | None:
    """The commit of a base that came from the Hub, as its cache on this machine has it; None for a folder."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).exists():
        return None
    file = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(file).parent.name if isinstance(file, str) else None
