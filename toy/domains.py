"""The targets of the toy domain: how far each is from the base's own look, and what its eight made-up names mean.

- *near*: a step away. The names of *far* on clips of which the base still describes most rightly.
- *far*: the demo's. The base describes two attributes of three rightly; size x motion makes the class.
- *fine*: classes that differ in little. Colour x speed, and the two speeds are neighbours (13-17 against 19.5-24
  pixels in a clip; the base was pretrained on 9-14 against 26-33), so that its captions are partly right.
- *disputed*: the negative control, whose oracle gap is near zero by design. The names of *far* in the base's own look:
  of what makes the class its own captions are true already, so that true ones have nothing to repair. What keeps
  every arm below 75 % is that a quarter of the clips, in every split, bear the name of another class.
- *unsaid*: true rationales on the wrong subject. The class is the light: the side that it comes from x warm or cold.
  It is drawn independently of all that happens, and no caption, question or name that the base was pretrained on
  speaks of it. So a true caption tells nothing of the class (their mutual information is zero), while the pixels do;
  what the class is can only be read in `guideline`. Captions teach the model to look past the light: expect a gap
  below zero.
"""

from dataclasses import dataclass

import numpy as np

from toy.corpus import define
from toy.scenes import ATTRIBUTES, LABELS, LIGHTS, Scene


@dataclass(frozen=True)
class Domain:
    """One target.

    Attributes:
        folder (`str`): Where its clips go, below outputs/toy.
        card (`str`): Its task card in recipes/tasks.
        shift (`float`): 0 is the base's own look, 1 only new looks (`toy.scenes.render`).
        labels (`dict[str, tuple[str, str]]`): Made-up name → the values that make the class.
        decides (`tuple[str, str]`): The two properties whose values these are.
        neighbours (`bool`): Whether slow and quick things differ in little.
        disputed (`float`): Share of the clips, in every split, that show another class than their label says.
    """

    folder: str
    card: str
    shift: float
    labels: dict[str, tuple[str, str]]
    decides: tuple[str, str] = ("size", "motion")
    neighbours: bool = False
    disputed: float = 0.0

    @property
    def lit(self) -> bool:
        """Whether the class is the light and not what happens."""
        return self.decides == tuple(LIGHTS)

    def fixed(self, label: str) -> dict[str, str]:
        """The attributes that a scene of the class must have; none where the light makes the class."""
        return {} if self.lit else dict(zip(self.decides, self.labels[label], strict=True))

    def definition(self, label: str) -> str:
        """What the name means, as in the task card: "something small moving left", or "warm light from the left"."""
        side, tint = self.labels[label]
        return f"{tint} light from {side}" if self.lit else define(self.decides, self.labels[label])

    def draw_shown(self, label: str, rng: np.random.Generator) -> str:
        """The class that a clip with this label shows: the label, or another one where it is disputed."""
        if not self.disputed or rng.random() >= self.disputed:
            return label
        return str(rng.choice([name for name in self.labels if name != label]))

    def guideline(self, scene: Scene, shown: str) -> str:
        """The true caption and why it fits the class that is shown, without the class name."""
        return f"{scene.caption} {self.definition(shown)}."


def _names(words: str, first: tuple[str, ...], second: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    return dict(zip(words.split(), ((a, b) for a in first for b in second), strict=True))


# Of the syllables of toy/corpus.py, as the demo's names: of other ones the base repeats not even a hint (RESULTS.md).
# None is a name that means something to it; as one of many without a meaning pretraining may have drawn them.
_FINE = "dorhem vantis kerlo pimnu galmi tisren pelbek cadwo"
_UNSAID = "renfi bekdor lartis wovan hemgal nuja zulo jamuri"
DOMAINS = {
    "near": Domain("near", "toy_near.yaml", 0.4, LABELS),
    "far": Domain("clips", "toy.yaml", 0.65, LABELS),
    "fine": Domain(
        "fine", "toy_fine.yaml", 0.5, _names(_FINE, ATTRIBUTES["colour"], ATTRIBUTES["speed"]),
        decides=("colour", "speed"), neighbours=True,
    ),
    "disputed": Domain("disputed", "toy_disputed.yaml", 0.0, LABELS, disputed=0.25),
    "unsaid": Domain(
        "unsaid", "toy_unsaid.yaml", 0.5, _names(_UNSAID, LIGHTS["side"], LIGHTS["tint"]), decides=("side", "tint")
    ),
}  # fmt: skip
