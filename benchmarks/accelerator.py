"""What a GPU makes of the real sizes: training, scoring and generation with random weights of the published shapes.

Output: OUT.json and OUT.md: clips/s, tokens/s, MFU, peak memory against the estimate, date, versions, hardware.
Command: python benchmarks/accelerator.py [--base 2b 7b toy] [--only nf4 stage1 sdpa] [--rounds 5] [--clips 2]
"""

import argparse
import dataclasses
import datetime
import gc
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerator_work import (
    ATTENTIONS,
    BASES,
    NOTHING,
    RECOMPUTE,
    TOY,
    WARM_UP,
    WEIGHTS,
    WORK,
    Load,
    Way,
    config_of,
    load_of,
    make_base,
    options_of,
    read,
    train,
)

from rbft_trl.configs import AdapterArguments
from rbft_trl.errors import UserError, at_least, nearest, run_entry
from rbft_trl.model.cost import GB, GPUS, Cost, Setting, meta_model, reading_cost, training_cost
from rbft_trl.model.loading import check_model_arguments

CARDS = {  # words in a device's name → its peak in `cost.GPUS`; a card that is not here gets no MFU
    "H100 HBM3": "h100",
    "H200": "h200",
    "A100": "a100",
    "L40S": "l40s",
    "4090": "rtx4090",
    "L4": "l4",
}
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "flash-attn")
COLUMNS = ("base", "weights", "attention", "work", "recompute", "clips/s", "tokens/s", "TFLOP", "MFU")
COLUMNS += ("peak GB", "estimated GB", "peak / estimated")


def ways(bases: Sequence[str], only: Sequence[str]) -> Iterator[Way]:
    """The rows that make sense: labels are scored under sdpa, and only training recomputes.

    Args:
        bases (`Sequence[str]`): Keys of `BASES`.
        only (`Sequence[str]`): Words; of one kind they are alternatives, of several kinds all must hold.
    """
    axes = (WEIGHTS, tuple(ATTENTIONS), WORK, RECOMPUTE)
    known = [word for axis in axes for word in axis]
    if unknown := sorted(set(only) - set(known)):
        raise UserError(f"--only '{unknown[0]}' is no setting{nearest(unknown[0], known)}; use any of {known}")
    chosen = [[word for word in axis if word in only] or axis for axis in axes]
    for way in itertools.starmap(Way, itertools.product(bases, *chosen)):
        if way.trains == (way.recompute != NOTHING) and not (way.work == "scoring" and way.attention == "flash"):
            yield way


class Estimates:
    """What model/cost.py says of a row, counted once per work, weights and recomputation (not per attention)."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], Cost] = {}

    def of(self, way: Way, load: Load, adapters: AdapterArguments, *, recompute: bool) -> Cost:
        """Memory and FLOPs of one round."""
        key = (way.base, way.weights, way.work, recompute, load.clips)
        if key not in self.known:
            self.known[key] = self._count(way, load, adapters, recompute)
        return self.known[key]

    def _count(self, way: Way, load: Load, adapters: AdapterArguments, recompute: bool) -> Cost:
        on_cpu = way.base == "toy" and not torch.cuda.is_available()
        setting = Setting(
            adapters if way.trains else None,
            load_in_4bit=way.weights == "nf4",
            autocast=not on_cpu,
            recompute=recompute,
            accumulation=load.micro_batches,
            device="cpu" if on_cpu else "cuda",
        )
        model = meta_model(config_of(way.base, load.collator), setting)
        if way.trains:
            return training_cost(model, setting, load.clips)
        decoding = load.decoding
        counts = {"samples": decoding.get("num_samples", 0), "new_tokens": decoding.get("max_new_tokens", 0)}
        return reading_cost(model, setting, load.clips, trie=load.trie, **counts)


def row_of(way: Way, load: Load, folder: Path | None, estimates: Estimates, rounds: int) -> dict[str, Any]:
    """One row: the estimate, then what was measured, or why nothing was.

    Args:
        way (`Way`): What.
        load (`Load`): From `load_of`.
        folder (`Path`, *optional*): The base on the disk; None if this machine cannot run it.
        estimates (`Estimates`): The cost model.
        rounds (`int`): Timed rounds.
    """
    with tempfile.TemporaryDirectory() as output:
        base, adapters, training = options_of(way, folder or TOY, output, load, WARM_UP + rounds)
        guess = estimates.of(way, load, adapters, recompute=way.recompute == "checkpointing")
        useful = estimates.of(way, load, adapters, recompute=False).flops
        row = dataclasses.asdict(way) | {
            "clips": len(load.rows) * load.micro_batches,
            "tokens": load.tokens * load.micro_batches,
            "answer_tokens": load.clips[0].answer if way.trains else None,
            "trie_nodes": len(load.trie.tokens) if load.trie else 0,
            "written": load.written,
            "flops": guess.flops,
            "estimate": dataclasses.asdict(guess) | {"live": guess.live, "total": guess.total},
        }
        if folder is None:
            return row | {"result": "not measured"}
        try:
            check_model_arguments(base, use_cpu=training.use_cpu)
            if way.trains:
                seconds = train(load, base, adapters, training)
            else:
                seconds = read(load, base, training.device, rounds)
            return row | measured(row, seconds, useful) | {"result": "measured"}
        except UserError as error:
            return row | {"result": "not run", "why": str(error).split(";")[0]}
        except torch.OutOfMemoryError:
            return row | {"result": "out of memory"}
        except Exception as error:  # one row of many; the process ends with 1
            traceback.print_exc()
            return row | {"result": "failed", "why": f"{type(error).__name__}: {error}".splitlines()[0]}


def measured(row: dict[str, Any], seconds: list[float], useful: int) -> dict[str, Any]:
    """Rates from the median; MFU leaves recomputation out; memory is what tensors held, on a GPU."""
    median, peak = statistics.median(seconds), peak_flops()
    tokens = row["tokens"] + row["clips"] * row["trie_nodes"] if not row["written"] else row["clips"] * row["written"]
    found = {"seconds": seconds, "clips_per_second": row["clips"] / median, "tokens_per_second": tokens / median}
    found["mfu"] = None if peak is None else useful / median / peak
    if torch.cuda.is_available():
        found |= {"peak": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return found


def peak_flops() -> float | None:
    """Dense bf16 FLOP/s of this card, None if it is unknown; the PCIe and NVL variants are other cards."""
    if not torch.cuda.is_available():
        return None
    words = set(torch.cuda.get_device_name().replace("-", " ").split())
    found = [GPUS[card][0] for needed, card in CARDS.items() if set(needed.split()) <= words and "NVL" not in words]
    return found[0] if found else None


def surroundings() -> dict[str, str]:
    """Date, hardware and versions."""
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        hardware = f"{card.name}, {card.total_memory / GB:.0f} GB, CUDA {torch.version.cuda}"
    else:
        cores = f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads"
        hardware = f"CPU only: {cores}, load {os.getloadavg()[0]:.1f} at the start"
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    return {"date": datetime.date.today().isoformat(), "hardware": hardware, "versions": ", ".join(versions)}


def table(about: dict[str, str], rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [f"{about['date']}. {about['hardware']}. {about['versions']}.", "", f"| {' | '.join(COLUMNS)} |"]
    lines.append("|" + "---|" * 5 + "---:|" * (len(COLUMNS) - 5))
    for row in rows:
        cells = [row[axis] for axis in COLUMNS[:5]]
        speed, peak, live = row.get("clips_per_second"), row.get("peak"), row["estimate"]["live"]
        cells += [row["result"], "–"] if speed is None else [f"{speed:.2f}", f"{row['tokens_per_second']:.0f}"]
        cells.append(f"{row['flops'] / 1e12:.3g}")
        cells.append("–" if row.get("mfu") is None else f"{100 * row['mfu']:.1f} %")
        cells += ["–" if peak is None else f"{peak / GB:.3g}", f"{live / GB:.3g}"]
        cells.append("–" if peak is None else f"{peak / live:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    reasons = dict.fromkeys(f"{row['result']}: {row['why']}" for row in rows if "why" in row)
    return "\n".join([*lines, *(line for reason in reasons for line in ("", reason))])


def main(argv: list[str] | None = None) -> int:
    """Measures what this machine can run, row by row; 1 if a row failed."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", nargs="+", choices=BASES, default=["2b", "7b"] if gpu else ["toy", "2b", "7b"])
    parser.add_argument("--only", nargs="+", default=[], help="words of the table's first columns")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps or batches per row, after two more")
    parser.add_argument("--clips", type=int, help="clips per micro-batch; the recipe's if left out")
    parser.add_argument("--answer_tokens", type=int, default=200, help="tokens of a rationale in stage 1")
    parser.add_argument("--new_tokens", type=int, help="tokens of a generated text; the recipe's if left out")
    parser.add_argument("--out", type=Path, default=Path("outputs/accelerator"), help="files without their endings")
    args = parser.parse_args(argv)
    at_least(1, rounds=args.rounds, answer_tokens=args.answer_tokens)
    at_least(1, **{key: getattr(args, key) for key in ("clips", "new_tokens") if getattr(args, key) is not None})
    about, rows, estimates = surroundings(), [], Estimates()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for base, group in itertools.groupby(ways(args.base, args.only), key=lambda way: way.base):
        with tempfile.TemporaryDirectory() as folder:
            made: Path | None = TOY if base == "toy" else None
            for way in group:
                load = load_of(way, args.clips, args.answer_tokens, args.new_tokens)
                if made is None and gpu:
                    made = make_base(config_of(base, load.collator), load.collator, Path(folder), "cuda")
                rows.append(row_of(way, load, made, estimates, args.rounds))
                gc.collect()
                torch.cuda.empty_cache()
                args.out.with_suffix(".json").write_text(json.dumps(about | {"rows": rows}, indent=1))
                args.out.with_suffix(".md").write_text(table(about, rows) + "\n", encoding="utf-8")
    print(table(about, rows))
    return int(any(row["result"] == "failed" for row in rows))


if __name__ == "__main__":
    run_entry(lambda argv: sys.exit(main(argv)))
