"""Does a small student learn more from a real teacher than from the text alone? Held-out bits per byte say.

The same new student (by seed) reads the same rows in the same order at the same learning rate, as many times: once
with plain cross entropy (`control`), and once by each method of the stage `distill`, with that stage's defaults. The
learning rate is picked for the control, on documents of the training file that no run trains on: the control has the
best chance. Runs that do not have start, rows, order and steps in common stop the benchmark.

Each run is a process of its own (honest memory), and its figures are kept, so that the same call continues.

    python -m bench.distill_text          # stories260k as teacher, beside the checkout
    python -m bench.distill_text --teacher DIR --train ROWS.jsonl --valid TEXT.txt --epochs 2 --methods logits
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.plain_text import bits_per_byte
from bench.text_runs import METHODS, Figures, differing, run, teacher_figures
from eval.statistics import Interval

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
TEACHER = "teacher"  # the run that trains nothing
COSTS = ("parameters", "steps", "tokens", "reading_seconds", "training_seconds", "peak_mb")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=SHARED / "models" / "stories260k")
    parser.add_argument("--train", type=Path, default=SHARED / "data" / "tinystories" / "train.jsonl", help="JSONL")
    parser.add_argument("--valid", type=Path, default=SHARED / "data" / "tinystories" / "valid.txt", help="plain text")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="beside the control")
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 1, 2])
    parser.add_argument("--rates", nargs="+", type=float, default=[2e-3, 4e-3, 8e-3], help="tried on control")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument(
        "--batch-size", type=int, default=4, help="rows a step; a student from scratch needs many steps"
    )
    parser.add_argument("--max-length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--hidden", type=int, default=40, help="size of the student, as of the three that follow")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--intermediate", type=int, default=112)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=ROOT / "runs" / "distill_text", help="where figures are kept")
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "SEED", "RATE"), help=argparse.SUPPRESS)
    return parser.parse_args(given)


def measured(args: argparse.Namespace, method: str, seed: int = 0, rate: float = 0.0) -> Figures:
    """The figures of a run, from the folder where they are kept or from a process of its own."""
    asked = {
        name: str(value) for name, value in vars(args).items() if name not in ("methods", "seeds", "rates", "keep")
    }
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    path: Path = args.keep / f"{method}-{seed}-{rate:g}-{key}.json"
    if not path.is_file():
        print(f"{method}, seed {seed}, learning rate {rate:g}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "bench.distill_text", *sys.argv[1:], "--one", method, str(seed), repr(rate)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{method}, seed {seed}, failed:\n{done.stderr[-3000:]}")
        args.keep.mkdir(parents=True, exist_ok=True)
        path.write_text(done.stdout.splitlines()[-1] + "\n", encoding="utf-8")
    figures: Figures = json.loads(path.read_text(encoding="utf-8"))
    return figures


def picked(args: argparse.Namespace, told: Figures) -> tuple[float, str]:
    """The learning rate that is best for the control on documents set aside, with the first seed; and how it went."""
    found = {
        rate: bits_per_byte(measured(args, "control", args.seeds[0], rate)["tune"], told["tune_sizes"]).mean
        for rate in sorted(args.rates)
    }
    best = min(found, key=lambda rate: found[rate])
    tried = ", ".join(f"{rate:g}: {value:.4f}" for rate, value in found.items())
    edge = " (the edge of what was tried)" if len(found) > 1 and best in (min(found), max(found)) else ""
    return best, (
        f"Learning rate {best:g}{edge}: of {tried}, control's bits per byte on {len(told['tune_sizes'])} documents of "
        f"the training file that no run trains on (seed {args.seeds[0]})."
    )


def checked(args: argparse.Namespace, rate: float) -> dict[str, list[Figures]]:
    """The runs of each method, seed by seed; runs of a seed that cannot be compared end the benchmark."""
    methods = ["control", *(name for name in args.methods if name != "control")]
    runs: dict[str, list[Figures]] = {name: [] for name in methods}
    for seed in args.seeds:
        found = [measured(args, name, seed, rate) for name in methods]
        if different := differing(found):
            raise SystemExit(f"seed {seed}: {', '.join(methods)} differ in {', '.join(different)}; nothing is compared")
        for name, figures in zip(methods, found, strict=True):
            runs[name].append(figures)
    return runs


def interval(found: Interval, form: str = ".4f") -> str:
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"


def loss_table(seeds: Sequence[int], runs: Mapping[str, list[Figures]], sizes: Sequence[int]) -> Iterator[str]:
    """A row a method and seed, and one a method over all seeds, whose nats a document are the mean of its runs."""
    yield "| seed | method | held-out bits per byte | difference to control | |"
    yield "|---|---|---|---|---|"
    nats = {name: np.array([figures["valid"] for figures in found]) for name, found in runs.items()}
    for label, part in [*((str(seed), [at]) for at, seed in enumerate(seeds)), ("all", list(range(len(seeds))))]:
        for name, values in nats.items():
            cost = interval(bits_per_byte(values[part].mean(axis=0).tolist(), sizes))
            if name == "control":
                yield f"| {label} | {name} | {cost} | | |"
                continue
            gap = bits_per_byte((values[part] - nats["control"][part]).mean(axis=0).tolist(), sizes)
            yield f"| {label} | {name} | {cost} | {interval(gap, '+.4f')} | {verdict(gap)} |"


def verdict(gap: Interval) -> str:
    """In words: fewer bits are better, and an interval that holds zero decides nothing."""
    if gap.high < 0:
        return "beats the control"
    return "does not beat the control" + (": it is worse" if gap.low > 0 else "")


def cost_table(runs: Mapping[str, list[Figures]]) -> Iterator[str]:
    """What a run takes, a mean over the seeds; before training the teacher reads what is cached."""
    yield "| method | parameters | steps | tokens | CPU seconds | before training | tokens a CPU second | peak MB |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, found in runs.items():
        mean = {key: float(np.mean([each[key] for each in found])) for key in COSTS}
        seconds = mean["reading_seconds"] + mean["training_seconds"]
        yield (
            f"| {name} | {mean['parameters']:,.0f} | {mean['steps']:,.0f} | {mean['tokens']:,.0f} | {seconds:,.0f} "
            f"| {mean['reading_seconds']:,.0f} | {mean['tokens'] / seconds:,.0f} | {mean['peak_mb']:,.0f} |"
        )


def material_lines(args: argparse.Namespace, told: Figures, student: Figures) -> Iterator[str]:
    """What was read, and how the teacher does on it."""
    sizes, borders = told["valid_sizes"], told["borders"]
    ends = ", ".join(f"{token} {nats:.2f}" for token, nats in told["ends"].items())
    yield (
        f"Student: {student['parameters']:,} parameters, {student['embedding']:,} of them the embedding. Teacher "
        f"{args.teacher.name}: {told['parameters']:,} parameters, {interval(bits_per_byte(told['valid'], sizes))} bits "
        f"per byte ({told['blank_lines']:.4f} with a blank line between paragraphs)."
    )
    yield (
        f"Nats of the teacher behind a whole document: {ends}. The cheapest ends a training document; held-out figures "
        "are of the text alone."
    )
    yield (
        f"{args.train.name}: {told['train']:,} documents in {told['rows']:,} rows of at most {args.max_length} tokens "
        f"({told['cut']:,} documents in more than one row, none dropped), {told['tokens']:,} supervised tokens a time."
    )
    yield (
        f"{args.valid.name}: {sum(sizes):,} bytes in {len(sizes):,} documents of at most {max(sizes):,}, "
        f"{told['valid_tokens']:,} tokens. Borders between documents are found with precision "
        f"{borders['precision']:.2f} and recall {borders['recall']:.2f} (half of the training documents, learned from "
        f"the other half). No training document has more than {told['shared']:.0%} of its runs of ten words there."
    )


def main() -> None:
    args = arguments()
    if args.one:
        import torch

        torch.set_num_threads(args.threads)
        method, seed, rate = args.one
        print(json.dumps(teacher_figures(args) if method == TEACHER else run(args, method, int(seed), float(rate))))
        return
    told = measured(args, TEACHER)
    rate, how = picked(args, told)
    runs = checked(args, rate)
    print("\n".join([*material_lines(args, told, runs["control"][0]), how, ""]))
    print("\n".join(loss_table(args.seeds, runs, told["valid_sizes"])) + "\n")
    print("\n".join(cost_table(runs)))


if __name__ == "__main__":
    main()
