"""Training with decoded frames kept in memory beside decoding in every epoch: time, and that nothing else changes.

Output: CPU seconds of each run (start and model included), the ratio of their medians, whether losses and weights are
bit-equal. CPU time counts no other work of the machine.
Command: python benchmarks/kept.py recipes/toy/direct.yaml [--rounds 3] [--steps 96] [any --key value of the recipe]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from rbft_trl import sft, start
from rbft_trl.data.kept import KEPT, LIMIT
from rbft_trl.errors import at_least, run_entry

LAST = ("--save_strategy", "no", "--load_best_model_at_end", "false")  # nothing is saved on the way


def main(argv: list[str]) -> None:
    """Trains in turns, with and without, after one step that warms up; prints medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=96)
    args, recipe = parser.parse_known_args(argv)
    at_least(1, rounds=args.rounds, steps=args.steps)
    seconds: dict[str, list[float]] = {"kept": [], "decoded": []}
    found, held = [], 0
    with tempfile.TemporaryDirectory() as folder:
        sft.main([*recipe, "--output_dir", f"{folder}/warm", *LAST, "--max_steps", "1"])
        for number in range(2 * args.rounds):
            way = ("decoded", "kept")[(number + number // 2) % 2]  # which comes first changes from round to round
            start.LIMIT = LIMIT if way == "kept" else 0
            KEPT.clear()
            out = Path(folder) / f"{number}"
            began = time.process_time()
            record = sft.main([*recipe, "--output_dir", str(out), *LAST, "--max_steps", str(args.steps)])
            seconds[way].append(round(time.process_time() - began, 2))
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
    print(f"decoded anew {decoded:.1f} s, kept {kept:.1f} s, ratio {decoded / kept:.2f}; {held / 1e6:.0f} MB held")
    print(f"losses and weights bit-equal: {same}")


if __name__ == "__main__":
    run_entry(main)
