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
    "and but however although though until while whereas because so therefore thus hence since yet which then despite"
)
TURNS = set_of("but however yet though although until then")  # takes back what was said before it
CONCEDES = set_of("although though while whereas despite")  # opens a clause that, up to its comma, is only conceded
NO = set_of(
    "no not never without neither nor nothing none nobody unlike unlikely cannot rather instead excludes exclude lack "
    "lacks absence except apart hardly"
)
MAYBE = set_of("could may might would possibly perhaps maybe if whether either or seemingly first")
# "no person is seen in the normal yard" denies no class: a denial does not reach over these.
BARRIERS = set_of("is are was were be been seen in on at near by to from with into after before during that")
FOUND = set_of("seen visible found present shown there detected observed likely happening occurring")
GONE = set_of("absent missing excluded unlikely ruled")
# "x does not fit", at the end of the clause only: a person may not fit through a window. "The label x is not right".
FITS = set_of("fit fits fitting match matches matching apply applies applicable")
RIGHT = set_of("right correct appropriate suitable") | FITS
WRONG = set_of("wrong incorrect false")
COPULA = set_of("is are was were")
WOULD_BE = COPULA | set_of("would be seems clearly therefore")
NOBODY = set_of("no nothing none nobody")  # begins a clause that ends "… is x": "nothing in it is x"
RELATIVE = set_of("that there who when if as before after what why how whether")
# With "not" behind one of these: a double denial.
SINGLE = NO - set_of("neither nor unlike unlikely rather instead except apart")
REACH = 5  # words between a denial and the name: "no signs of suspicious or abnormal …"
# A name may be an everyday word. It is claimed at the end of its clause, before one of these, or after NAMED.
ABOUT = "about"  # "a book about x": the word, not the clip
AFTER_CLAIM = set_of("in on at here clip event class category label as with then")
NAMED = set_of("class category label classification called named")
NO_DENIAL = re.compile(
    r"\b(?:no|little|not|never|hardly|scarcely) (?:\w+ )?doubt(?:s|ed)?\b"
    r"|\bno question\b|\bno(?:ne|thing)? other than\b|\bnot only\b"
    r"|\bwithout (?:a |any )?doubt\b|\bnothing but\b|\bnot (?:deny|hide)\b"
    r"|\b(?:can ?not|could not) be (?:ruled out|excluded|denied|anything but)\b"
    r"|\bimpossible to (?:rule out|exclude|deny)\b"
    r"|\b(?:not|never|cannot|no(?:thing|body| \w+))(?: (?:can|could|will))? (?:stop|cease|prevent)(?:s|d|p?ed)?\b"
    r"(?= \w)(?! (?:to|or|nor|and|at|in|on|for|by|from)\b)"
)
# What denies without a word of NO, or reaches further than one; read as "not". Articles after it: a thing, no class.
DENIAL = re.compile(
    r"\b(?:(?:free|devoid) of|free from|far from)(?: any(?:thing)?\b)?(?! (?:an?|the|his|her|their)\b)"
    r"|\bi (?:\w+ )?doubt\b(?:(?: that| if| whether)? (?:it|this|the \w+) (?:is|was)\b)?"
    r"|\b(?:can ?not|could not) be\b(?! (?:more|less|clearer|any)\b)"
    r"(?= (?:(?:an?|the|called|labell?ed) )*\w+(?: \w+)?$)"
    r"|\bzero (?:signs?|evidence|indications?|hints?)\b"
    r"|\b(?:depart|deviat|differ|diverg|stray)\w* from\b(?! (?:an?|the|his|her|their)\b)"
    r"|\banything but\b|\bother than\b(?! the\b)|\bno (?:reason|need|cause|grounds?) to\b"
    r"|\b(?:rules?|ruling|(?:i|we|have|has|had) ruled) out\b|\bwrong to (?:call|say|label)\b"
    r"|\b(?:this|that|which|it|much|evidence) (?:argues?|speaks?|points? away) (?:against|from)\b"
    r"|(?<!\ba )(?<!\bthe )\b(?:little(?: to| that)?|(?:few|none|nothing|no(?! one))(?: \w+){0,3}?)"
    r" (?:suggest(?:s|ed)?|indicat(?:es?|ed)|hint(?:s|ed)? at|point(?:s|ed)? (?:at|to|towards?)|speaks? for)\b"
    r"(?:(?: that)? (?:it|this|the \w+) (?:is|was)\b)?"
)
OUT_OF_QUESTION = re.compile(r"\bout of (?:the )?question\b")
# A claim, unless the sentence has a condition.
WOULD_SAY = re.compile(
    r"(?<=\bi )would (?=(?:\w+ly |still |also |not )?(?:say|call|label|classify|categori[sz]e|describe)\b)"
)
CONDITION = re.compile(r"\b(?:if|unless|otherwise|without)\b|^ ?(?:were|had)\b")
ALSO = re.compile(r"\bso (?:is|are|was|were|do|does|did)\b")  # "so is x": what is said of x stands before


def words(text: str) -> list[str]:
    """The words of `text` as they are counted and compared here: normalised, without punctuation."""
    return WORD.findall(normalise(text))


def spelled_out(text: str) -> str:
    """`text` normalised, with the "not" of "can't" and "doesn't" as a word of its own."""
    plain = re.sub(r"\bcan(?:'t| not(?! only))\b", "cannot", normalise(text.replace("\u2019", "'")))
    return re.sub(r"n't\b", " not", plain)


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
    for sentence in SENTENCE_END.split(spelled_out(reasoning)):
        said = sentence if CONDITION.search(sentence) else WOULD_SAY.sub("", sentence)
        said = OUT_OF_QUESTION.sub("excluded", ALSO.sub("perhaps", NO_DENIAL.sub(" ", said)))
        for clause, turn in _clauses(DENIAL.sub(" not ", said), card):
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
    """Per clause, its words as (word or class name, is it a name), and whether it turns against what came before. Of a
    name that is only conceded ("although it seems normal, …") nothing is said: it is a word.
    """
    names = sorted(((words(name), name) for name in card.names), key=lambda pair: -len(pair[0]))
    names = [(said, name) for said, name in names if said and not set(said) <= NO]  # a class may be called "no"
    tokens, clauses, place, conceded = TOKEN.findall(sentence), [([], False)], 0, False
    while place < len(tokens):
        for said, name in names:  # the longest first, before the text is cut: a class may be called "hit and run"
            if tokens[place : place + len(said)] == said:
                clauses[-1][0].append((name, not conceded))
                place += len(said)
                break
        else:
            if tokens[place] in JOINTS or not WORD.fullmatch(tokens[place]):
                clauses.append(([], tokens[place] in TURNS))
                conceded = tokens[place] in CONCEDES or (conceded and tokens[place] == "and")
            else:
                clauses[-1][0].append((tokens[place], False))
            place += 1
    return clauses


def _is_denied(clause: list[tuple[str, bool]], place: int) -> bool:
    """A denial stands before the name, or what follows says that it was not there or does not fit."""
    subject = [word for word, is_name in clause[:place] if not is_name]
    if subject and subject[0] in NOBODY and set(subject[-2:]) & COPULA:
        return not set(subject) & (RELATIVE | {"not"})
    before = [word for word, is_name in clause[max(0, place - REACH - 1) : place] if not is_name]
    for back, word in enumerate(reversed(before)):
        if word in NO:
            twice = word in ("not", "without") and set(before[: -back - 1]) & SINGLE
            return not twice and (back == 0 or not set(before[len(before) - back :]) & BARRIERS)
    after = [word for word, is_name in clause[place + 1 :] if not is_name]
    nots = [i for i, word in enumerate(after[:5]) if word in ("not", "never", "cannot")]
    if not nots:
        return bool(set(after[:3]) & GONE or (after and after[-1] in WRONG and set(after[:-1]) <= WOULD_BE))
    tail = set(after[nots[0] + 1 :])
    is_label = tail & NAMED or (place and clause[place - 1][0] in NAMED)
    by = [*after[1:], ""]  # "x is not seen by the dog": it is there
    unseen = any(after[j] in FOUND and by[j] != "by" for i in nots for j in range(i + 1, min(i + 3, len(after))))
    return unseen or after[-1] in FITS or bool(is_label and tail & RIGHT)


def _is_claimed(clause: list[tuple[str, bool]], place: int) -> bool:
    if place and clause[place - 1][0] == ABOUT:
        return False
    last = place == len(clause) - 1 or clause[place + 1][0] in AFTER_CLAIM
    return last or (place > 0 and clause[place - 1][0] in NAMED)
