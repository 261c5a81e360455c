"""Every reason code that a row can hold stands in the docs, and answers that these call refused are refused so."""

import ast
import re
from collections.abc import Iterator
from itertools import chain

import pytest

from rbft_trl.data.answers import AnswerType
from tests.helpers import REPOSITORY

FILES = ("data/answers.py", "data/task.py", "evidence/verify.py", "evidence/support.py", "evidence/checklist.py")
FILES += ("evidence/sheet.py", "evidence/answers.py", "star.py")
KNOWN = {"no_label", "negated", "empty_item", "wrong_item", "cut", "duplicate", "too_short", "no_evidence", "no_item"}
KNOWN |= {"unexpected", "disagreement", "reviewed", "rationalised", "unreadable_clip"}
PAGES = [path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "docs").glob("*.md"))]
TYPES = [AnswerType("number", absolute=0.0), AnswerType("time", absolute=0.1), AnswerType("list")]
TYPES += [AnswerType("time_range", iou=0.5)]


def constants(node: ast.expr | None) -> Iterator[str]:
    """The codes among what an expression may give."""
    if isinstance(node, ast.Constant) and re.fullmatch(r"[a-z]+(_[a-z]+)*", str(node.value)):
        yield str(node.value)
    parts = {ast.IfExp: ("body", "orelse"), ast.Tuple: ("elts",), ast.List: ("elts",), ast.BoolOp: ("values",)}
    for key in parts.get(type(node), ()):
        part = getattr(node, key)
        yield from chain.from_iterable(map(constants, part if isinstance(part, list) else [part]))


def codes_of(source: str) -> set[str]:
    """What a file returns, or gives the name or key `reason` (or `found`, a list of them)."""
    values: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Return):
            values.append(node.value)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            values += [node.value] if isinstance(target, ast.Name) and target.id in ("reason", "found") else []
        elif isinstance(node, ast.Dict):
            keys = zip(node.keys, node.values, strict=True)
            values += [value for key, value in keys if isinstance(key, ast.Constant) and key.value == "reason"]
        elif isinstance(node, ast.BoolOp) and "reason" in ast.dump(node.values[0]):
            values.append(node)
    return {code for value in values for code in constants(value)} - {"None"}


def test_every_reason_code_stands_in_the_docs() -> None:
    codes = {code: file for file in FILES for code in codes_of((REPOSITORY / "rbft_trl" / file).read_text())}
    assert codes.keys() >= KNOWN, "the search finds what is known"
    assert not {code: file for code, file in codes.items() if not any(f"`{code}`" in page for page in PAGES)}


def refused() -> list[tuple[str, str]]:
    """Answers in quotes of the table of docs/star.md, each with the code beside it."""
    page = (REPOSITORY / "docs/star.md").read_text(encoding="utf-8")
    found = []
    for line in page.partition("| refused | code |")[2].partition("\n\n")[0].splitlines()[2:]:
        answers, codes = line.strip("| ").split(" | ")
        found += [(answer, codes) for answer in re.findall(r'"([^"]+)"', answers)]
    return found


@pytest.mark.parametrize(("answer", "codes"), refused())
def test_an_answer_of_the_docs_is_refused_as_they_say(answer: str, codes: str) -> None:
    said = {kind.read(answer)[1] for kind in TYPES}
    assert {f"`{code}`" for code in said if code} & set(codes.split("; ")), said


def test_a_denial_in_a_list_is_another_item() -> None:
    value, reason = AnswerType("list").read("never left")
    assert "never left" not in dict(refused())
    assert reason is None and AnswerType("list").objection(value, "left") == "wrong_item"
    assert AnswerType("list").read("about left, up")[1] is None
    assert AnswerType("list").read("left or up")[1] == "hedged"
