"""Source clips in memory for pretraining: rendered once by two processes, with the codec's loss of colour imitated.

Output: uint8 frames `[N, 8, 56, 56, 3]`, their scenes, and where things are.
"""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
from tqdm import tqdm

from toy.scenes import NUM_FRAMES, SIDE, Scene, draw_background, draw_scene, render

SAMPLED = np.linspace(0, NUM_FRAMES - 1, 8).round().astype(int)  # the frames that the sampler takes
BLOCK = 250
Clips = tuple[np.ndarray, list[Scene], list[np.ndarray]]


def halve_chroma(frames: np.ndarray) -> np.ndarray:
    """What yuv420p does to a picture: brightness stays, colour is averaged over 2 x 2 pixels."""
    pixels = frames.astype(np.float32)
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    chroma = pixels - luma[..., None]
    small = chroma.reshape(len(frames), SIDE // 2, 2, SIDE // 2, 2, 3).mean((2, 4))
    return np.clip(small.repeat(2, 1).repeat(2, 2) + luma[..., None], 0, 255).astype(np.uint8)


def make_block(seed: int) -> Clips:
    """`BLOCK` source clips; half of them with a little of the target's look, so that the base is not brittle."""
    rng = np.random.default_rng([7, seed])
    frames, scenes, centres = [], [], []
    for _ in range(BLOCK):
        scene, shift = draw_scene(rng), max(0.0, rng.uniform(-0.08, 0.08))
        pixels, where = render(scene, draw_background(rng), rng, shift=shift, frames=SAMPLED)
        frames.append(halve_chroma(pixels))
        scenes.append(scene)
        centres.append(where)
    return np.stack(frames), scenes, centres


def make_source(num_clips: int, *, seed: int, workers: int = 2) -> Clips:
    """`num_clips` source clips (rounded up to whole blocks of 250)."""
    seeds = range(seed * 100_000, seed * 100_000 + -(-num_clips // BLOCK))
    with ProcessPoolExecutor(workers) as pool:
        blocks = list(tqdm(pool.map(make_block, seeds), total=len(seeds), desc="source clips", unit="block"))
    frames = np.concatenate([block[0] for block in blocks])
    return frames, [s for block in blocks for s in block[1]], [c for block in blocks for c in block[2]]
