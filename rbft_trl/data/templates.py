"""The prompts of a task card: a folder of text files, or texts in the card itself; the package's own for the rest.

Input: the `prompts` part of a card. Output: checked template texts by name.
"""

from pathlib import Path
from string import Template

from rbft_trl.errors import UserError, nearest

PROMPT_FOLDER = Path(__file__).parent / "prompts"
PROMPT_FILES = ("label", "rationale", "hint", "checklist")
CLIP_PLACE = "\ufffc"  # what $video becomes: Unicode's sign for an object that stands in a text


def read_prompts(given: str | dict[str, str] | None, path: Path, *, is_open: bool) -> dict[str, str]:
    """Reads and checks the prompts.

    Args:
        given (`str` or `dict[str, str]`, *optional*): A folder beside the card, or some texts by name.
        path (`Path`): The card, for messages.
        is_open (`bool`): Whether the answers are open, which is asked for in other words.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    inline = given if isinstance(given, dict) else {}
    for name, text in inline.items():
        if name not in PROMPT_FILES or not isinstance(text, str):
            raise UserError(f"{path}: 'prompts' holds {name!r}: {text!r}; give texts for any of {PROMPT_FILES}")
    shipped = PROMPT_FOLDER / "open" if is_open else PROMPT_FOLDER
    own = path.parent / str(given) if given and not inline else shipped
    if not own.is_dir():
        raise UserError(f"{path}: the prompt folder '{own}' does not exist; leave 'prompts' out for the package's own")
    for file in sorted(own.glob("*.txt")):
        if file.stem not in PROMPT_FILES:
            raise UserError(f"{file} is no prompt of ours{nearest(file.stem, PROMPT_FILES)}; known: {PROMPT_FILES}")
    prompts = {}
    for name in PROMPT_FILES:
        places = [folder / f"{name}.txt" for folder in (own, shipped, PROMPT_FOLDER)]
        file = next(place for place in places if place.is_file())
        try:
            prompts[name] = inline[name] if name in inline else file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
        _check(prompts[name], name, f"{path}: prompts.{name}" if name in inline else str(file), is_open=is_open)
    return prompts


def _check(text: str, name: str, place: str, *, is_open: bool) -> None:
    choices = "form" if is_open else "labels"
    needed = {"label": {choices}, "rationale": {choices, "hint"}, "hint": {"label"}, "checklist": {"item"}}[name]
    more = {"hint": set(), "checklist": {"answers"}}.get(name, {"video"})
    allowed, template = {"question", "role", "aspects"} | needed | more, Template(text)
    if not template.is_valid() or not set(template.get_identifiers()) <= allowed:
        raise UserError(f"{place}: a '$' stands for something unknown; use {sorted(allowed)}, or '$$' for a dollar")
    if missing := needed - set(template.get_identifiers()):
        raise UserError(f"{place}: the placeholder ${sorted(missing)[0]} is missing")
    if template.substitute(dict.fromkeys(allowed, "") | {"video": CLIP_PLACE}).count(CLIP_PLACE) > 1:
        raise UserError(f"{place}: $video stands twice; keep one (without it the clip stands first)")
