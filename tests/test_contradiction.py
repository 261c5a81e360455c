"""Contradictions in four domains: cases that the word lists were made from, and cases that they were not."""

import pytest

from rbft_trl.data.task import TaskCard
from rbft_trl.evidence.verify import contradiction

Case = tuple[tuple[str, ...], str, str, bool]
HOME, DOOR = ("normal", "abnormal"), ("normal", "delivery", "intruder")
SPORT, HATE = ("serve", "smash", "climb"), ("normal", "offensive", "hateful")
MOVES = ("running", "fall", "sitting")
TOY = ("dorvan", "miloren", "takerzu", "pimgal", "sofibek", "nularwo", "tishem", "japelri")

# Class names, final line, reasoning, does it contradict itself? These the lists were made from.
KNOWN: list[Case] = [
    (HOME, "abnormal", "The yard is quiet and free of abnormal activity.", True),
    (HOME, "abnormal", "A boy plays with a ball, which is far from abnormal.", True),
    (HOME, "abnormal", "There is little to suggest abnormal activity.", True),
    (HOME, "abnormal", "A cat walks by. Abnormal is ruled out.", True),
    (HOME, "abnormal", "The clip shows a garden, and nothing in it is abnormal.", True),
    (HOME, "abnormal", "A neighbour waves. The class abnormal does not fit.", True),
    (HOME, "abnormal", "A cat sleeps. I doubt that this is abnormal.", True),
    (HOME, "abnormal", "The yard is quiet, with zero signs of abnormal activity.", True),
    (HOME, "abnormal", "A window breaks, so I have no doubt: this is abnormal.", False),
    (DOOR, "intruder", "He rings the bell and waits. It cannot be an intruder.", True),
    (DOOR, "normal", "A man reads a book about delivery. He walks on.", False),
    (
        HOME,
        "abnormal",
        "There is nothing abnormal in the yard at noon. A window breaks later. I'd say abnormal.",
        False,
    ),
    (HOME, "normal", "A window breaks. I'd say abnormal.", True),
    (HOME, "abnormal", "A window breaks. It could not be more abnormal.", False),
    (HOME, "abnormal", "A window breaks. I hardly doubt that this is abnormal.", False),
    (HOME, "normal", "I do not see anything that is not normal.", False),
    (HOME, "abnormal", "Two children play; it would be wrong to call this abnormal.", True),
    (HOME, "abnormal", "There is no reason to consider anything here abnormal.", True),
    (HOME, "abnormal", "The dog sleeps and few things hint at abnormal behaviour.", True),
    (HOME, "abnormal", "The clip is devoid of abnormal events.", True),
    (DOOR, "intruder", "She waves at the camera. The label intruder is not fitting.", True),
    (DOOR, "delivery", "A man leaves the house. Delivery can be ruled out.", True),
    (DOOR, "intruder", "He has a key. Intruder is not the right class here.", True),
    (SPORT, "serve", "The ball is in play already; this is not a serve.", True),
    (SPORT, "smash", "The stroke is something other than a smash.", True),
    (HATE, "hateful", "None of the words is hateful.", True),
    (HATE, "offensive", "The label offensive would be wrong, since nobody is insulted.", True),
    (TOY, "miloren", "The thing moves up, thus miloren does not match.", True),
    (TOY, "tishem", "Small things move up, so this argues against tishem.", True),
    (HOME, "normal", "Nothing that is not normal happens.", False),
    (HOME, "normal", "I see no sign of anything other than normal life.", False),
    (HOME, "abnormal", "A fire breaks out. Nothing about this is normal.", False),
    (HOME, "abnormal", "A window breaks. It is impossible to rule out abnormal.", False),
    (HOME, "abnormal", "I do not doubt that this is abnormal.", False),
    (HOME, "abnormal", "There is little doubt that it is abnormal.", False),
    (HOME, "abnormal", "The street is far from the abnormal event, a burning car.", False),
    (HOME, "abnormal", "A broken window is not free of abnormal signs.", False),
    (HOME, "abnormal", "Abnormal is not excluded: the man hides his face.", False),
    (DOOR, "delivery", "The parcel does not fit through the slot, a delivery as usual.", False),
    (DOOR, "intruder", "The intruder does not fit through the window.", False),
    (SPORT, "climb", "The wall is free. The climb is not easy.", False),
    (HATE, "hateful", "The host does not apply any restraint: hateful words follow.", False),
    (HATE, "normal", "Nobody is called anything hateful, and the tone is normal.", False),
    (TOY, "takerzu", "Dorvan is ruled out, and so is miloren. The small thing moves up.", False),
    (TOY, "pimgal", "Few frames show more than one circle. This fits pimgal.", False),
    (TOY, "nularwo", "The class tishem does not fit, the large square moves right.", False),
    (HOME, "abnormal", "A cat sleeps. I would classify the clip as Normal.", True),
    (HOME, "abnormal", "A cat sleeps. I would clearly call this normal.", True),
    (HOME, "abnormal", "If the man had a key, I would call this normal.", False),
    (HOME, "abnormal", "Had he a key, I would say this is normal.", False),
    (DOOR, "intruder", "The intruder is not seen by the dog.", False),
    (DOOR, "intruder", "An intruder is not seen in the yard.", True),
    (HOME, "abnormal", "The behaviour departs from normal.", False),
    (HOME, "abnormal", "Nothing that he does is different from normal.", False),
    (HOME, "normal", "The behaviour deviates from normal.", True),
    (HOME, "normal", "The behaviour does not differ from normal.", False),
    (DOOR, "delivery", "The van departs from the delivery.", False),
    (DOOR, "delivery", "The van departs from Berlin after the delivery.", False),
    (HOME, "abnormal", "Although the yard seems normal, a man hides.", False),
    (DOOR, "intruder", "Although the yard seems normal, a man hides.", False),
    (HOME, "abnormal", "A man hides, whereas the yard is calm and normal.", False),
    (HOME, "abnormal", "Despite looking normal, the man has a knife.", False),
    (HOME, "abnormal", "Although a dog barks, this is normal.", True),
    (MOVES, "running", "He does not stop running.", False),
    (MOVES, "running", "He does not stop to run. He is not running.", True),
    (MOVES, "fall", "Nothing can stop his fall.", False),
    (MOVES, "running", "Nothing can stop his fall.", True),
    (MOVES, "fall", "He never stops. There is no fall.", True),
]
# Written before the lists were looked at, by whoever changed them then.
HELD_BACK: list[Case] = [
    (HOME, "abnormal", "A woman waters her plants and goes back inside. There is nothing abnormal here.", True),
    (HOME, "abnormal", "The door stays shut for the whole clip, so abnormal can be excluded.", True),
    (HOME, "normal", "A man smashes the window with a hammer, so the clip is abnormal.", True),
    (HOME, "abnormal", "A cat sleeps on the mat; I would hardly call this abnormal.", True),
    (HOME, "abnormal", "The porch is empty and the clip lacks anything abnormal.", True),
    (DOOR, "intruder", "The person wears a uniform and puts down a parcel. This points away from intruder.", True),
    (DOOR, "delivery", "Nobody carries a parcel, which means it cannot be delivery.", True),
    (SPORT, "smash", "The racket meets the ball below the waist. The class smash is out of the question.", True),
    (SPORT, "climb", "He stays on the ground all the time and climb is not what he does.", True),
    (HATE, "hateful", "The speaker jokes about the weather. No group is attacked, so hateful does not apply.", True),
    (HATE, "offensive", "He insults a whole people for its origin. That makes the video hateful.", True),
    (HATE, "hateful", "The talk is anything but hateful.", True),
    (HATE, "normal", "I cannot agree with calling this normal.", True),
    (TOY, "takerzu", "Small squares move left. That is dorvan.", True),
    (TOY, "takerzu", "Something large moves up, so takerzu is wrong.", True),
    (TOY, "sofibek", "The circles are small, which rules out sofibek.", True),
    (HOME, "normal", "There is nothing here that is not normal.", False),
    (HOME, "abnormal", "A masked man enters; this is far from normal.", False),
    (HOME, "abnormal", "It cannot be denied that this is abnormal.", False),
    (HOME, "abnormal", "At first nothing abnormal can be seen, but then a man climbs through the window.", False),
    (HOME, "normal", "A man walks his dog. I cannot find an abnormal moment.", False),
    (HOME, "normal", "Nothing rules out normal here: a child plays with a ball.", False),
    (HOME, "abnormal", "The abnormal part starts when the glass breaks, and no one reacts.", False),
    (HOME, "abnormal", "A lamp comes free of its hook and falls; the abnormal event is at the end.", False),
    (DOOR, "intruder", "He has no parcel with him, so delivery is ruled out. He tries the door handle.", False),
    (DOOR, "delivery", "Without a doubt this is a delivery: she leaves a parcel.", False),
    (SPORT, "smash", "The player is not at the net and does not serve; the smash comes from the back.", False),
    (SPORT, "climb", "There is no doubt that this is a climb.", False),
    (HATE, "hateful", "She does not hide that her words are hateful.", False),
    (HATE, "offensive", "The words are rude without being hateful.", False),
    (HATE, "normal", "He quotes a hateful slogan in order to condemn it. The video itself is normal.", False),
    (HATE, "hateful", "Far from harmless, the speech is hateful.", False),
    (TOY, "takerzu", "They do not move left, so it is not dorvan. They are small and move up.", False),
    (TOY, "japelri", "Neither tishem nor nularwo fits; the large thing moves down.", False),
]
# Written after the lists were final, in the way models write; nothing was changed for them.
LATER: list[Case] = [
    (HOME, "abnormal", "She unlocks the door. There is no indication of forced entry or abnormal behaviour.", True),
    (HOME, "abnormal", "Overall the scene seems typical, and I would not classify it as abnormal.", True),
    (HOME, "abnormal", "Everything that happens is perfectly normal.", True),
    (HOME, "normal", "The man falls down the stairs and does not get up, which makes this abnormal.", True),
    (DOOR, "intruder", "The person waits with a box, so I do not think this is an intruder.", True),
    (DOOR, "delivery", "The video doesn't contain a delivery; only a car passes.", True),
    (DOOR, "intruder", "Nobody enters. The best match is normal.", True),
    (SPORT, "smash", "The shuttle is hit gently from below. It should be labelled serve.", True),
    (SPORT, "serve", "He jumps and hits the ball down hard, more of a smash than a serve.", True),
    (HATE, "hateful", "He swears, yet no group is targeted, so the content falls short of hateful.", True),
    (HATE, "normal", "The host mocks women throughout; the correct label is hateful.", True),
    (HATE, "offensive", "There isn't any offensive language in the clip.", True),
    (TOY, "dorvan", "The small circle goes up, which is what takerzu means.", True),
    (TOY, "japelri", "It matches pimgal rather than japelri, as the thing is small.", True),
    (HOME, "abnormal", "This goes beyond normal behaviour: he kicks the door.", False),
    (HOME, "abnormal", "The otherwise normal evening is interrupted by a crash.", False),
    (HOME, "abnormal", "Nobody who lives here would find this normal.", False),
    (HOME, "abnormal", "No one in the room notices the abnormal smoke.", False),
    (HOME, "normal", "Although the noise might seem abnormal, it is only the dog.", False),
    (DOOR, "intruder", "The man is not a resident and not making a delivery; he looks into the car.", False),
    (DOOR, "delivery", "No intruder is visible. A courier hands over a parcel at the door.", False),
    (DOOR, "normal", "Nothing is delivered and nobody sneaks around, so the clip is normal.", False),
    (SPORT, "serve", "The player has not yet begun the rally and tosses the ball up to serve.", False),
    (SPORT, "smash", "It cannot be a serve because the rally is under way; he jumps to smash.", False),
    (HATE, "hateful", "What starts as a normal talk ends in hateful claims about migrants.", False),
    (HATE, "offensive", "He does not attack a group, so it is offensive rather than hateful.", False),
    (HATE, "normal", "The word is quoted, not used in a hateful way.", False),
    (TOY, "tishem", "If it were small it would be takerzu, but it is large and moves up.", False),
    (TOY, "sofibek", "Unlike dorvan, the thing is large. It moves left.", False),
]
# Written after the second extension (concessions, "I would call", "departs from", "does not stop"), as LATER was; it
# then had one false alarm, "strays from", which was added.
AGAIN: list[Case] = [
    (HOME, "abnormal", "The man only picks up his own newspaper. I would describe the scene as normal.", True),
    (HOME, "normal", "He hits the camera with a stick. We would label it abnormal.", True),
    (DOOR, "intruder", "The dog barks at the postman, but no intruder is seen by anyone.", True),
    (HATE, "hateful", "His tone differs from hateful talk; he only quotes.", True),
    (SPORT, "smash", "Although he jumps, the stroke is a serve.", True),
    (TOY, "dorvan", "The shape departs from dorvan in its size.", True),
    (HOME, "abnormal", "Whereas the neighbours shout, what happens in the yard is normal.", True),
    (MOVES, "running", "I would rather say that he is sitting.", True),
    (HOME, "abnormal", "I would say that it looked normal until the window broke.", False),
    (HOME, "abnormal", "Some would call it normal. Yet he carries a crowbar.", False),
    (DOOR, "intruder", "The residents sleep and the intruder is not noticed by them.", False),
    (DOOR, "delivery", "Despite the late hour and the mask, no intruder: a courier.", False),
    (HATE, "offensive", "While the first joke is normal, the second insults his wife.", False),
    (SPORT, "climb", "Nothing stops the climb.", False),
    (MOVES, "fall", "The rail does not prevent the fall.", False),
    (HOME, "abnormal", "Such behaviour strays from normal.", False),
]


def is_found(case: Case) -> bool:
    names, concluded, reasoning, _ = case
    card = TaskCard("t", dict.fromkeys(names, "x"), "?", "r", ("a",), {})
    return contradiction(reasoning, concluded, card) == "contradiction"


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case[2])
def test_cases_that_the_lists_were_made_from(case: Case) -> None:
    assert is_found(case) == case[3]


@pytest.mark.parametrize(
    ("cases", "right", "found"),
    [(HELD_BACK, 16, 14), (LATER, 14, 10), (AGAIN, 8, 6)],
    ids=["before", "later", "again"],
)
def test_precision_and_recall_on_other_cases(cases: list[Case], right: int, found: int) -> None:
    """docs/rationales.md has these figures; what is missed may be found one day, but no false alarm is allowed."""
    assert [case[2] for case in cases if is_found(case) and not case[3]] == []
    assert sum(case[3] for case in cases) == right
    assert sum(is_found(case) for case in cases) == found
