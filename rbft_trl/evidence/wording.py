"""How the checks read a text: its words, its sentences, and which classes it claims or denies (in English).

Input: the reasoning of a rationale and the task card. Output: words, sentences, names of classes.
"""

import re
from collections.abc import Sequence

from rbft_trl.data.task import TaskCard, normalise

UNSPACED = "\u3040-\u30ff\u3400-\u9fff"  # scripts without spaces: one character counts as one word
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
SENTENCE_END = re.compile(r"[.!?;\n\u3002]+")
TOKEN = re.compile(rf"{WORD.pattern}|[,:()\u2013\u2014]| - ")


def set_of(text: str) -> frozenset[str]:
    """The words of a list written as one text."""
    return frozenset(text.split())


# Where a clause ends: what stands in one says nothing of the next.
JOINTS = set_of(
    "and but however although though until while whereas because so therefore thus hence since yet which then"
)
TURNS = set_of("but however yet though although until then")  # takes back what was said before it
NO = set_of(
    "no not never without neither nor nothing none nobody unlike unlikely cannot rather instead excludes exclude lack "
    "lacks absence except apart hardly"
)
MAYBE = set_of("could may might would possibly perhaps maybe if whether either or seemingly first")
# "no person is seen in the normal yard" denies no class: a denial does not reach over these.
BARRIERS = set_of("is are was were be been seen in on at near by to from with during that")
FOUND = set_of("seen visible found present shown there detected observed likely happening occurring")
GONE = set_of("absent missing excluded unlikely")
REACH = 5  # words between a denial and the name: "no signs of suspicious or abnormal …"
# A name may be an everyday word. It is claimed at the end of its clause, before one of these, or after NAMED.
AFTER_CLAIM = set_of("in on at here clip event class category label as with then")
NAMED = set_of("class category label classification called named")
NO_DENIAL = re.compile(
    r"\bno (?:doubt|question|other than)\b|\bnone other than\b|\bnot only\b|\bwithout (?:a |any )?doubt\b"
    r"|\bnothing (?:but|other than)\b|\b(?:can ?not|could not) be (?:ruled out|excluded|anything but)\b"
)


def words(text: str) -> list[str]:
    """The words of `text` as they are counted and compared here: normalised, without punctuation."""
    return WORD.findall(normalise(text))


def runs(said: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Every run of `size` words."""
    return [tuple(said[i : i + size]) for i in range(len(said) - size + 1)]


def without_classes(reasoning: str, card: TaskCard) -> tuple[str, bool]:
    """The sentences that name no class, and whether any did (RISE's deletion, arXiv 2508.13229)."""
    names = [tuple(name) for name in map(words, card.names) if name]
    parts = [part.strip() for part in SENTENCE_END.split(reasoning) if words(part)]
    free = [part for part in parts if not any(name in runs(words(part), len(name)) for name in names)]
    return "".join(f"{part}. " for part in free).strip(), len(free) < len(parts)


def claimed_and_denied(reasoning: str, card: TaskCard) -> tuple[set[str], set[str]]:
    """The classes that a text claims ("this is x", "the class x") and those that it denies ("no signs of x", "x was
    not seen"). What it may be ("could be x", "x or y") is neither, nor is a name that only describes ("a normal day"),
    and "but" or "however" take back all that stands before them.
    """
    claimed, denied = set[str](), set[str]()
    plain = normalise(reasoning.replace("\u2019", "'"))
    for sentence in SENTENCE_END.split(re.sub(r"n't\b", " not", plain)):
        for clause, turn in _clauses(NO_DENIAL.sub(" ", sentence), card):
            if turn:
                claimed, denied = set(), set()
            no = {clause[i][0] for i in range(len(clause)) if clause[i][1] and _is_denied(clause, i)}
            denied |= no
            open_names = {name for i, (name, is_name) in enumerate(clause) if is_name and _is_claimed(clause, i)}
            others = {name for name, is_name in clause if is_name} - no
            if len(others) == 1 and not any(word in NO | MAYBE for word, is_name in clause if not is_name):
                claimed |= open_names
    return claimed, denied


def _clauses(sentence: str, card: TaskCard) -> list[tuple[list[tuple[str, bool]], bool]]:
    """Per clause, its words as (word or class name, is it a name), and whether it turns against what came before."""
    names = sorted(((words(name), name) for name in card.names), key=lambda pair: -len(pair[0]))
    names = [(said, name) for said, name in names if said and not set(said) <= NO]  # a class may be called "no"
    tokens, clauses, place = TOKEN.findall(sentence), [([], False)], 0
    while place < len(tokens):
        for said, name in names:  # the longest first, before the text is cut: a class may be called "hit and run"
            if tokens[place : place + len(said)] == said:
                clauses[-1][0].append((name, True))
                place += len(said)
                break
        else:
            if tokens[place] in JOINTS or not WORD.fullmatch(tokens[place]):
                clauses.append(([], tokens[place] in TURNS))
            else:
                clauses[-1][0].append((tokens[place], False))
            place += 1
    return clauses


def _is_denied(clause: list[tuple[str, bool]], place: int) -> bool:
    """A denial stands shortly before the name, or what follows says that it was not there."""
    before = [word for word, is_name in clause[max(0, place - REACH - 1) : place] if not is_name]
    for back, word in enumerate(reversed(before)):
        if word in NO:
            return back == 0 or not set(before[len(before) - back :]) & BARRIERS
    after = [word for word, is_name in clause[place + 1 :] if not is_name][:5]
    nots = [i for i, word in enumerate(after) if word in ("not", "never", "cannot")]
    return bool(set(after[:3]) & GONE) or any(set(after[i + 1 : i + 3]) & FOUND for i in nots)


def _is_claimed(clause: list[tuple[str, bool]], place: int) -> bool:
    last = place == len(clause) - 1 or clause[place + 1][0] in AFTER_CLAIM
    return last or (place > 0 and clause[place - 1][0] in NAMED)
