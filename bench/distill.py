"""Logit distillation, online and cached, against TRL's `GKDTrainer(lmbda=0)`: speed, peak memory and loss in one run.

All sides distil the same random student from the same random teacher on the same token rows in the same order; ours go
the way of `posttrain run`. Each run is a process of its own (honest memory) and the sides take turns: the machine may
be shared, so the ratio is what counts, and the ratio of CPU time is the steadier one (with one thread it is what an
idle machine would show). It fails where the sides do not compute the same: in fp32 GKD's and the online loss after the
last step must agree, and a cached loss may differ from the exact one of the same student by chance alone, see
distill_witness.py. bf16 autocast rounds the sides differently: there the gap to GKD is printed and not held to.

    python bench/distill.py                                          # fp32, then bf16 autocast
    python bench/distill.py --teacher-hidden 480 --teacher-layers 8  # a teacher of 4.9 times the student
    python bench/distill.py --keep-memory                            # freed memory stays with the process
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
LOSS_TOLERANCE = 1e-4
EPOCHS = (1, 3)  # over which the teacher's pass is shared out
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**36)}
Run = dict[str, Any]  # the figures of a side, see distill_sides.py


@dataclass(frozen=True)
class Cost:
    """Seconds a token of the rows (padding not counted), by the clock and of CPU time, and peak memory."""

    wall: float
    cpu: float
    peak_mb: float

    def __str__(self) -> str:
        return f"{1 / self.wall:9,.0f} {1 / self.cpu:12,.0f}"


def run(side: str, setup: Run, keep_memory: bool) -> Run:
    """The figures of one side in a process of its own."""
    command = [sys.executable, "-m", "bench.distill_sides", json.dumps({**setup, "side": side})]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(setup["threads"]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env={**env, **(KEEP if keep_memory else {})}, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    if done.returncode or not lines:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    figures: Run = json.loads(lines[0].removeprefix("FIGURES "))
    return figures


def cost(figures: Run) -> Cost:
    return Cost(figures["seconds"] / figures["tokens"], figures["cpu_seconds"] / figures["tokens"], figures["peak_mb"])


def together(training: Cost, filling: Cost, epochs: int) -> Cost:
    """Training for this many epochs with one pass of the teacher before it, in one process."""
    return Cost(
        training.wall + filling.wall / epochs,
        training.cpu + filling.cpu / epochs,
        max(training.peak_mb, filling.peak_mb),
    )


def repeat(setup: Run, with_cache: bool, keep_memory: bool) -> dict[str, Run]:
    """Every side once, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        sides = ("gkd", "online", "plain", *(("fill", "cached", "check") if with_cache else ()))
        return {side: run(side, {**setup, "targets": folder}, keep_memory) for side in sides}


def costs(runs: dict[str, Run]) -> dict[str, Cost]:
    """By name, the lines of the table."""
    found = {"TRL GKD": cost(runs["gkd"]), "ours, online": cost(runs["online"])}
    if "cached" in runs:
        training, filling = cost(runs["cached"]), cost(runs["fill"])
        found["ours, cached: training"] = training
        for epochs in EPOCHS:
            found[f"  and the teacher's pass over {epochs}"] = together(training, filling, epochs)
        found["  the teacher's pass alone"] = filling
    return {**found, "no teacher: cross entropy": cost(runs["plain"])}


def print_costs(repeats: list[dict[str, Cost]]) -> None:
    """Medians; ratios to GKD of the same repeat, with their range where there are several."""
    print("                               tokens/s  tokens/CPU s  x GKD (wall)  x GKD (CPU time)  peak MB")
    for name in repeats[0]:
        own, gkd = [each[name] for each in repeats], [each["TRL GKD"] for each in repeats]
        middle = Cost(*(median(column) for column in zip(*(vars(c).values() for c in own), strict=True)))
        wall = [g.wall / c.wall for g, c in zip(gkd, own, strict=True)]
        cpu = [g.cpu / c.cpu for g, c in zip(gkd, own, strict=True)]
        spread = f" ({min(cpu):.2f} to {max(cpu):.2f})" if len(cpu) > 1 else ""
        print(f"  {name:28} {middle}  {median(wall):12.2f}  {median(cpu):16.2f}  {middle.peak_mb:7,.0f}{spread}")


def compare(setup: Run, args: argparse.Namespace) -> list[str]:
    """Print what one precision gives; returns where the sides do not compute the same."""
    with_cache = setup["divergence"] == "forward_kl"  # what draws are made for
    repeats = [repeat(setup, with_cache, args.keep_memory) for _ in range(args.repeats)]
    runs = repeats[0]
    ours, gkd = runs["online"]["losses"], runs["gkd"]["losses"]
    gap, steps = abs(ours[-1] - gkd[-1]), len(gkd)
    print(
        f"{'bf16 autocast' if setup['bf16'] else 'fp32'}: loss at the first step {gkd[0]:.5f}; after {steps}: GKD",
        end=" ",
    )
    print(f"{gkd[-1]:.5f}, ours online {ours[-1]:.5f}, gap {gap:.1e}", end=" ")
    print(f"(largest of a step {max(abs(a - b) for a, b in zip(ours, gkd, strict=True)):.1e})")
    wrong = [f"loss: GKD and online differ by {gap:.1e}; {LOSS_TOLERANCE} is allowed"]
    wrong = wrong if gap > LOSS_TOLERANCE and not setup["bf16"] else []
    if with_cache:
        wrong += print_check(runs)
    print_costs([costs(each) for each in repeats])
    print("", flush=True)
    return wrong


def print_check(runs: dict[str, Run]) -> list[str]:
    """The cached loss beside the exact one; returns what is wrong with it."""
    found, disk = runs["check"]["more"]["found"], runs["fill"]["more"]
    print(
        f"  cached student after as many steps: drawn {found['drawn_nats']:.4f}, exact {found['exact_nats']:.4f}, "
        f"standard error {found['error_nats']:.4f} nats (the online student: {runs['online']['losses'][-1]:.4f}; "
        f"the teacher's entropy: {found['entropy_nats']:.2f})\n"
        f"  standard errors from exact: last step {found['last_step']:+.1f}, all steps {found['all_steps']:+.1f}, "
        f"teacher in the student's place {found['teacher']:+.1f}\n"
        f"  controls there, to be caught: top-n made to sum to one {found['top']:+.0f}, draws moved by a position "
        f"{found['moved']:+.0f}\n"
        f"  cache: {disk['bytes_per_supervised']:.1f} bytes a supervised token, {disk['bytes_per_token']:.1f} a token"
    )
    same = runs["check"]["losses"] == runs["cached"]["losses"]
    return [
        *runs["check"]["more"]["faults"],
        *([] if same else ["the timed cached run had other losses than the check"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--divergence", choices=["forward_kl", "reverse_kl", "jsd"], default="forward_kl")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--student-hidden", type=int, default=192, help="a multiple of 96: heads of 48")
    parser.add_argument("--student-layers", type=int, default=4)
    parser.add_argument("--teacher-hidden", type=int, default=288)
    parser.add_argument("--teacher-layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--shortest", type=int, default=96, help="tokens of a row")
    parser.add_argument("--longest", type=int, default=160)
    parser.add_argument("--supervised", type=float, default=0.5, help="share of a row, at its end")
    parser.add_argument("--draws", type=int, default=12, help="a position, of the cached targets")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=["fp32", "bf16"], help="one precision")
    parser.add_argument("--keep-memory", action="store_true", help="glibc gives no freed memory back, on every side")
    args = parser.parse_args()
    setup = {name: value for name, value in vars(args).items() if name not in ("repeats", "only", "keep_memory")}
    print(
        f"{args.divergence}, student {args.student_hidden} x {args.student_layers}, teacher {args.teacher_hidden} x "
        f"{args.teacher_layers}, vocabulary {args.vocabulary:,}, {args.batch} rows of {args.shortest}-{args.longest} "
        f"tokens, {args.supervised:.0%} supervised, {args.draws} draws, threads: {args.threads}",
        flush=True,
    )
    wrong = []
    for precision in [args.only] if args.only else ["fp32", "bf16"]:
        wrong += [f"{precision}, {fault}" for fault in compare({**setup, "bf16": precision == "bf16"}, args)]
    if wrong:
        raise SystemExit("The speeds compare different things.\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
