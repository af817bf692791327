"""Online logit distillation against TRL's `GKDTrainer(lmbda=0)`: tokens a second, peak memory and loss, side by side.

Both sides distil the same random student from the same random teacher on the same token rows in the same order.
Each run is a process of its own (honest memory) and the sides take turns: the machine may be shared, so the ratio
is what counts, and the ratio of CPU time is the steadier one (with one thread it is what an idle machine would
show). In fp32 both must have one loss after the last step; bf16 autocast rounds the sides differently, so there
the gap is printed and not asserted.

    python bench/distill_online.py                      # fp32, then bf16 autocast
    python bench/distill_online.py --divergence jsd --repeats 3
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

LOSS_TOLERANCE, LEARNING_RATE = 1e-4, 1e-3
WARMUP = 2  # steps that are not timed
GKD_BETA = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}


class Stamp(NamedTuple):
    """The loss of a step, and the clocks in seconds when it was done."""

    loss: float
    wall: float
    cpu: float


def stamp(loss: float) -> Stamp:
    return Stamp(loss, time.perf_counter(), time.process_time())


def make_model(args: argparse.Namespace, hidden: int, layers: int, seed: int) -> Any:
    """A random Llama, tied; its weights are large enough for a distribution that is not flat."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(seed)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 48,
        vocab_size=args.vocabulary,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config)


def make_rows(args: argparse.Namespace) -> list[Any]:
    """Random tokens; the last `supervised` share of a row counts. Speed does not depend on what the tokens say."""
    from posttrain.lm.token_row import TokenRow

    rng, rows = random.Random(0), []
    for i in range(args.steps * args.batch):
        length = rng.randint(args.shortest, args.longest)
        ids = [rng.randrange(3, args.vocabulary) for _ in range(length)]
        rows.append(TokenRow(str(i), ids, [j >= length * (1 - args.supervised) for j in range(length)]))
    return rows


def trainer_config(args: argparse.Namespace, kind: Any, directory: str, **more: Any) -> Any:
    """What both sides are told; recomputation of activations, TRL's default, is off: the faster stock."""
    return kind(
        output_dir=directory,
        learning_rate=LEARNING_RATE,
        num_train_epochs=1,
        per_device_train_batch_size=args.batch,
        lr_scheduler_type="constant",
        use_cpu=True,
        bf16=args.bf16,
        seed=0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        disable_tqdm=True,
        **more,
    )


def train_ours(args: argparse.Namespace, rows: list[Any], directory: str) -> list[Stamp]:
    """A stamp after every step of this project's trainer with the online loss."""
    from trl import SFTConfig

    from posttrain.lm.causal_blocks import causal_blocks
    from posttrain.lm.distillation.logit_loss import LogitDistillation, logit_distillation_loss
    from posttrain.lm.supervised_trainer import SupervisedTrainer

    student, teacher = make_models(args)
    settings = LogitDistillation(divergence=args.divergence, beta=GKD_BETA["jsd"])

    class Online(SupervisedTrainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            with self.accelerator.autocast():
                return logit_distillation_loss(
                    self.model,
                    teacher,
                    inputs["input_ids"],
                    None,
                    inputs["labels"],
                    settings=settings,
                    real_ids=args.vocabulary,
                    num_items_in_batch=num_items_in_batch,
                )

    stamps: list[Stamp] = []
    trainer = Online(
        student,
        trainer_config(args, SFTConfig, directory),
        rows,
        on_step=lambda step, steps, logs: stamps.append(stamp(logs["loss"])),
    )
    with causal_blocks(student, active=args.bf16), causal_blocks(teacher, active=args.bf16):
        trainer.train()
    return stamps


def train_gkd(args: argparse.Namespace, rows: list[Any], directory: str) -> list[Stamp]:
    """A stamp after every step of TRL's `GKDTrainer` without student samples."""
    from transformers import TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    from posttrain.lm.supervised_trainer import LengthGroupedBatches, _no_tokenizer, as_dataset, collate

    class InOurOrder(GKDTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return LengthGroupedBatches([len(row.input_ids) for row in rows], args.batch, self.args.seed)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                stamps.append(stamp(logs["loss"]))

    def with_mask(batch: Any) -> Any:
        import torch

        tensors = collate(batch)
        lengths = tensors.pop("tokens")
        return tensors | {"attention_mask": (torch.arange(tensors["labels"].shape[1]) < lengths[:, None]).long()}

    stamps: list[Stamp] = []
    student, teacher = make_models(args)
    tokenizer = _no_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[UNK]", "eos_token": "[UNK]"})
    config = trainer_config(
        args, GKDConfig, directory, lmbda=0.0, beta=GKD_BETA[args.divergence], temperature=1.0, max_length=None
    )
    trainer = InOurOrder(
        student,
        teacher,
        args=config,
        data_collator=with_mask,
        train_dataset=as_dataset(rows),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    return stamps


def make_models(args: argparse.Namespace) -> tuple[Any, Any]:
    """Student and frozen teacher."""
    student = make_model(args, args.student_hidden, args.student_layers, seed=0)
    teacher = make_model(args, args.teacher_hidden, args.teacher_layers, seed=1)
    return student, teacher.eval().requires_grad_(False)


def measure(args: argparse.Namespace) -> None:
    """One run of one side, in this process; the figures go to standard output as a line of JSON."""
    import torch

    torch.set_num_threads(args.threads)
    rows = make_rows(args)
    with tempfile.TemporaryDirectory() as directory:
        stamps = {"ours": train_ours, "gkd": train_gkd}[args.side](args, rows, directory)
    figures = {
        "losses": [stamp.loss for stamp in stamps],
        "seconds": stamps[-1].wall - stamps[WARMUP - 1].wall,
        "cpu_seconds": stamps[-1].cpu - stamps[WARMUP - 1].cpu,
        "tokens": sum(len(row.input_ids) for row in rows),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print("FIGURES " + json.dumps(figures))


def run(side: str, bf16: bool, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one run in a process of its own; speed counts the rows' tokens, padding not."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, *["--bf16"] * bf16]
    root = str(Path(__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    if done.returncode or not lines:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(lines[0].removeprefix("FIGURES "))
    timed = figures["tokens"] * (args.steps - WARMUP) / args.steps
    return figures | {"speed": timed / figures["seconds"], "cpu_speed": timed / figures["cpu_seconds"]}


def compare(bf16: bool, args: argparse.Namespace) -> None:
    """Print loss agreement, speed and memory of both sides in one precision."""
    pairs = [(run("ours", bf16, args), run("gkd", bf16, args)) for _ in range(args.repeats)]
    ours, gkd = (side["losses"] for side in pairs[0])
    last = abs(ours[-1] - gkd[-1])
    print(f"{'bf16 autocast' if bf16 else 'fp32'}: loss at the first step {ours[0]:.5f}, after {args.steps}:", end=" ")
    print(f"ours {ours[-1]:.5f}, GKD {gkd[-1]:.5f}, gap {last:.1e}", end=" ")
    print(f"(largest of a step {max(abs(a - b) for a, b in zip(ours, gkd, strict=True)):.1e})")
    for name, side in (("ours", 0), ("GKD", 1)):
        speed = statistics.median(pair[side]["speed"] for pair in pairs)
        peak = statistics.median(pair[side]["peak_mb"] for pair in pairs)
        print(f"  {name:5} {speed:7,.0f} tokens/s   peak {peak:6,.0f} MB")
    for name, figure in (("ratio", "speed"), ("ratio of CPU time", "cpu_speed")):
        ratios = [a[figure] / b[figure] for a, b in pairs]
        print(f"  {name} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"  memory {statistics.median(a['peak_mb'] / b['peak_mb'] for a, b in pairs):.2f}", flush=True)
    if not bf16 and last > LOSS_TOLERANCE:
        raise SystemExit(f"the losses differ by more than {LOSS_TOLERANCE}: the speeds compare different things")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--divergence", choices=GKD_BETA, default="forward_kl")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--student-hidden", type=int, default=192, help="a multiple of 96: heads of 48")
    parser.add_argument("--student-layers", type=int, default=4)
    parser.add_argument("--teacher-hidden", type=int, default=288)
    parser.add_argument("--teacher-layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--shortest", type=int, default=96, help="tokens of a row")
    parser.add_argument("--longest", type=int, default=160)
    parser.add_argument("--supervised", type=float, default=0.5, help="share of a row, at its end")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["fp32", "bf16"], help="one precision")
    parser.add_argument("--side", choices=["ours", "gkd"], help=argparse.SUPPRESS)
    parser.add_argument("--bf16", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        measure(args)
        return
    print(
        f"{args.divergence}, student {args.student_hidden} x {args.student_layers}, teacher {args.teacher_hidden} x "
        f"{args.teacher_layers}, vocabulary {args.vocabulary:,}, {args.batch} rows of {args.shortest}-{args.longest} "
        f"tokens, {args.supervised:.0%} supervised, threads: {args.threads}"
    )
    for precision in [args.only] if args.only else ["fp32", "bf16"]:
        compare(precision == "bf16", args)


if __name__ == "__main__":
    main()
