"""What happens in a toy clip, and how it looks: attributes → frames, with one knob `shift` from source to target.

Input: a random generator and a shift. Output: a `Scene` (the truth) and uint8 frames.
"""

from dataclasses import asdict, dataclass

import numpy as np

SIDE, NUM_FRAMES, FPS = 56, 16, 8  # pixels, frames and frames per second of every clip
FRAMES = {"num_frames": 8, "min_pixels": SIDE * SIDE, "max_pixels": SIDE * SIDE}  # how the recipes read a clip
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "count": ("one", "two", "three"),
    "size": ("small", "large"),
    "colour": ("red", "green", "blue", "yellow"),
    "shape": ("circle", "square", "triangle"),
    "motion": ("left", "right", "up", "down"),
    "speed": ("slowly", "quickly"),
}
COLOURS = {"red": (225, 60, 50), "green": (60, 190, 75), "blue": (65, 100, 235), "yellow": (235, 215, 60)}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
# Pixels that a thing moves in a clip; those of neighbours differ in little.
SPEEDS = {"slowly": (9, 14), "quickly": (26, 33)}
NEIGHBOURS = {"slowly": (13, 17), "quickly": (19.5, 24)}
# What no caption speaks of: where the light comes from, and its tint.
LIGHTS: dict[str, tuple[str, ...]] = {"side": ("the left", "the right", "above", "below"), "tint": ("warm", "cold")}
_LIT_FROM = {"the left": (-1, 0), "the right": (1, 0), "above": (0, -1), "below": (0, 1)}
# Class = size x motion: one look in space and one in time; neither alone tells more than half or a quarter.
LABELS = {
    "dorvan": ("small", "left"),
    "miloren": ("small", "right"),
    "takerzu": ("small", "up"),
    "pimgal": ("small", "down"),
    "sofibek": ("large", "left"),
    "nularwo": ("large", "right"),
    "tishem": ("large", "up"),
    "japelri": ("large", "down"),
}


@dataclass(frozen=True)
class Scene:
    """The true attributes of a clip; `centres` `[T, count, 2]` in pixels and `radius` say where its things are."""

    count: str
    size: str
    colour: str
    shape: str
    motion: str
    speed: str

    @property
    def caption(self) -> str:
        """The sentence that describes the clip, in the words that the base was pretrained to write."""
        plural = "" if self.count == "one" else "s"
        return f"{self.count} {self.size} {self.colour} {self.shape}{plural} moving {self.motion} {self.speed}."

    @property
    def label(self) -> str:
        """The abstract class name."""
        return next(name for name, pair in LABELS.items() if pair == (self.size, self.motion))

    def attributes(self) -> dict[str, str]:
        """Attribute → value."""
        return asdict(self)


def draw_scene(rng: np.random.Generator, **fixed: str) -> Scene:
    """A scene with independent uniform attributes, but for those that are `fixed`."""
    return Scene(**{name: fixed.get(name) or str(rng.choice(values)) for name, values in ATTRIBUTES.items()})


@dataclass(frozen=True)
class Background:
    """One camera: clips of a group share it. `texture` is float32 `[SIDE, SIDE, 3]` in 0..255."""

    plain: np.ndarray
    texture: np.ndarray


def draw_background(rng: np.random.Generator) -> Background:
    """A dark plain wall (source) and a bright textured one (target) for the same camera."""
    plain = np.full((SIDE, SIDE, 3), rng.uniform(10, 45), np.float32) + rng.uniform(-8, 8, 3).astype(np.float32)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    texture = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(4):
        fx, fy = rng.uniform(-0.9, 0.9, 2)
        texture += rng.uniform(5, 15) * np.sin(fx * x + fy * y + rng.uniform(0, 6.3))
    tint = rng.uniform(80, 150) + rng.uniform(-25, 25, 3).astype(np.float32)
    return Background(plain, (texture[..., None] + tint).astype(np.float32))


def paths(scene: Scene, rng: np.random.Generator, *, neighbours: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Centres `[NUM_FRAMES, count, 2]` (x, y in pixels) and radii `[count]` of the things."""
    count = ATTRIBUTES["count"].index(scene.count) + 1
    radius = rng.uniform(7.0, 8.3, count) if scene.size == "large" else rng.uniform(3.6, 4.9, count)
    way = rng.uniform(*(NEIGHBOURS if neighbours else SPEEDS)[scene.speed])
    direction = np.array(DIRECTIONS[scene.motion], np.float32)
    lane = SIDE / count
    across = (np.arange(count) + 0.5) * lane + rng.uniform(-1, 1, count) * np.maximum(lane / 2 - radius - 0.5, 0)
    span = SIDE - 2 * radius - way
    along = radius + way / 2 + rng.uniform(0.02, 0.98, count) * np.maximum(span, 0)
    steps = np.linspace(-0.5, 0.5, NUM_FRAMES)[:, None, None] * way * direction
    middle = np.stack([along, across] if direction[0] else [across, along], axis=-1)
    return (middle[None] + steps).astype(np.float32), radius.astype(np.float32)


def render(
    scene: Scene,
    background: Background,
    rng: np.random.Generator,
    *,
    shift: float,
    frames: np.ndarray | None = None,
    light: tuple[str, str] | None = None,
    neighbours: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a scene.

    Args:
        scene (`Scene`): What happens.
        background (`Background`): Where.
        rng (`np.random.Generator`): Paths, looks and noise.
        shift (`float`): 0 is the look of the source; 1 only new looks: hollow patterned sprites in other hues, a
            bright textured background, noise, low contrast.
        frames (`np.ndarray`, *optional*): Indices of the frames to draw; all 16 by default.
        light (`tuple[str, str]`, *optional*): Side and tint of a light that falls on the whole picture.
        neighbours (`bool`, *optional*, defaults to `False`): Whether slow and quick things differ in little.

    Returns:
        `tuple`: uint8 `[T, SIDE, SIDE, 3]` RGB, and the centres `[T, count, 2]`.
    """
    centres, radius = paths(scene, rng, neighbours=neighbours)
    centres = centres if frames is None else centres[frames]
    new_look = rng.random(len(radius)) < shift
    picture = np.repeat(((1 - shift) * background.plain + shift * background.texture)[None], len(centres), axis=0)
    colour = np.array(COLOURS[scene.colour], np.float32) + rng.uniform(-18, 18, 3)
    pattern = rng.uniform(0.5, 1.1), rng.uniform(0, 3.14)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) + 0.5
    for k, size in enumerate(radius):
        dx, dy = x - centres[:, k, 0, None, None], y - centres[:, k, 1, None, None]
        inside = np.clip(_distance(scene.shape, dx, dy, size) + 0.5, 0, 1)
        strength = 1 - 0.45 * shift
        paint = colour
        if new_look[k]:  # a ring-like sprite with stripes in a paler, turned hue
            hole = np.clip(_distance(scene.shape, dx, dy, size * 0.45) + 0.5, 0, 1)
            stripes = 0.62 + 0.38 * np.sin(pattern[0] * (dx * np.cos(pattern[1]) + dy * np.sin(pattern[1])) * 2)
            inside = inside * (1 - 0.85 * hole) * stripes
            paint = 0.6 * colour + 0.25 * np.roll(colour, 1) + 40
        picture += (inside * strength)[..., None] * (paint - picture)
    if light:
        picture *= _lighting(light, rng)
    picture += rng.normal(0, 3 + 13 * shift, picture.shape).astype(np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8), centres


def _lighting(light: tuple[str, str], rng: np.random.Generator) -> np.ndarray:
    """Factors `[SIDE, SIDE, 3]`: brighter towards the side of the light, redder or bluer by its tint."""
    side, tint = light
    y, x = 2 * (np.mgrid[:SIDE, :SIDE].astype(np.float32) + 0.5) / SIDE - 1
    slope = rng.uniform(0.5, 0.75) * (_LIT_FROM[side][0] * x + _LIT_FROM[side][1] * y)
    turn = rng.uniform(0.25, 0.4) * (1 if tint == "warm" else -1)
    return (1 + slope[..., None]) * np.array([1 + turn, 1, 1 - turn], np.float32)


def _distance(shape: str, dx: np.ndarray, dy: np.ndarray, size: float) -> np.ndarray:
    """Signed distance in pixels to the edge of a shape of half-width `size`, positive inside."""
    if shape == "circle":
        return size - np.hypot(dx, dy)
    if shape == "square":
        return size * 0.9 - np.maximum(np.abs(dx), np.abs(dy))
    return np.minimum(size * 0.75 - dy, (dy + size * 1.1 - 1.75 * np.abs(dx)) / 2.0)
