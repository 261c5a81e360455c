"""Training with decoded frames kept in memory beside decoding in every epoch: time, and that nothing else changes.

Output: seconds of training, the ratio of their medians, whether losses and weights are bit-equal.
Command: python benchmarks/kept.py recipes/toy/direct.yaml [--rounds 3] [any --key value of the recipe]
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from rbft_trl import sft, start
from rbft_trl.data.kept import KEPT, LIMIT


def main(argv: list[str]) -> None:
    """Trains in turns, with and without; prints medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args, recipe = parser.parse_known_args(argv)
    seconds: dict[str, list[float]] = {"kept": [], "decoded": []}
    found, held = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2 * args.rounds):
            way = ("decoded", "kept")[(number + number // 2) % 2]  # which comes first changes from round to round
            start.LIMIT = LIMIT if way == "kept" else 0
            KEPT.clear()
            out = Path(folder) / f"{number}"
            record = sft.main([*recipe, "--output_dir", str(out), "--save_strategy", "no"])
            seconds[way].append(record["seconds"])
            curve = [entry["loss"] for entry in record["curves"] if "loss" in entry]
            found.append((curve, load_file(out / "adapter_model.safetensors")))
            held = max(held, KEPT.held)
    first = found[0]
    same = all(
        curve == first[0] and all(torch.equal(weights[key], first[1][key]) for key in first[1])
        for curve, weights in found
    )
    kept, decoded = (statistics.median(seconds[way]) for way in ("kept", "decoded"))
    print(f"{record['steps']} steps, {record['presentations']} clips shown, {args.rounds} rounds each: {seconds}")
    print(
        f"decoded in every epoch {decoded:.1f} s, kept {kept:.1f} s, ratio {decoded / kept:.2f}; {held / 1e6:.0f} MB"
    )
    print(f"losses and weights bit-equal: {same}")


if __name__ == "__main__":
    main(sys.argv[1:])
