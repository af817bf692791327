"""Supervised fine-tuning against stock TRL: tokens a second, peak memory and loss, side by side.

Both sides get the same model, rows, batch size and bf16 autocast; each run is a process of its own (honest
memory) and the sides take turns (the machine may be shared, so the ratio is what counts). Before the timing,
both train 20 steps in one data order and must agree in the loss.

    python bench/sft.py                       # both models, LoRA
    python bench/sft.py --shape m15 --full    # full fine-tuning of the 15M model
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[2] / "shared"
STORIES = SHARED / "models" / "stories260k"
TEXTS = SHARED / "data" / "tinystories" / "train.jsonl"
LOSS_STEPS, LOSS_TOLERANCE = 20, 1e-3
LEARNING_RATE, BATCH = 1e-3, 8
WARMUP = 2  # steps that are not timed


@dataclass(frozen=True)
class Shape:
    """A model and the rows it is trained on; lengths are uniform between `shortest` and `longest`."""

    config: dict[str, int]
    shortest: int
    longest: int
    supervised: float


SHAPES = {
    "stories260k": Shape(
        {
            "hidden_size": 64,
            "intermediate_size": 172,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "vocab_size": 512,
        },
        shortest=300,
        longest=500,
        supervised=0.85,
    ),
    "m15": Shape(
        {
            "hidden_size": 288,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "vocab_size": 32_000,
        },
        shortest=128,
        longest=384,
        supervised=0.5,
    ),
}


def make_model(shape: Shape, path: str | None, full: bool) -> Any:
    """The model at `path`, or a random Llama of the shape; with a LoRA of rank 16 unless `full`."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, set_seed

    from posttrain.lm.sft import add_lora

    set_seed(0)
    if path:
        model = AutoModelForCausalLM.from_pretrained(path)
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape.config, tie_word_embeddings=True))
    return model if full else add_lora(model, r=16, lora_alpha=32)


def make_rows(shape: Shape, count: int, path: str | None) -> list[Any]:
    """Stories where the model's tokenizer and the stories are there, else random tokens.

    The last `supervised` share of a row counts. Speed does not depend on what the tokens say.
    """
    from posttrain.lm.token_row import TokenRow

    rng, rows = random.Random(0), []
    texts = story_tokens(path) if path and TEXTS.is_file() else None
    for i in range(count):
        length = rng.randint(shape.shortest, shape.longest)
        if texts is None:
            ids = [rng.randrange(3, shape.config["vocab_size"]) for _ in range(length)]
        else:
            start = rng.randrange(len(texts) - length)
            ids = texts[start : start + length]
        rows.append(TokenRow(str(i), ids, [j >= length * (1 - shape.supervised) for j in range(length)]))
    return rows


def story_tokens(path: str) -> list[int]:
    """A thousand stories in a row, in the tokens of the model at `path`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(path) / "tokenizer.json"))
    lines = TEXTS.read_text(encoding="utf-8").splitlines()[:1000]
    return [i for line in lines for i in tokenizer.encode(json.loads(line)["text"]).ids]


def train_ours(model: Any, rows: list[Any], directory: str) -> list[tuple[float, float]]:
    """(loss, seconds) of every step of this project's trainer."""
    from posttrain.lm.sft import SFTSettings, train

    times: list[tuple[float, float]] = []
    settings = SFTSettings(
        learning_rate=LEARNING_RATE,
        batch_size=BATCH,
        warmup_ratio=0.0,
        lr_scheduler_type="constant",
        bf16=True,
        save_every_steps=1_000_000,
    )
    train(
        model,
        rows,
        settings=settings,
        checkpoint_dir=Path(directory),
        on_step=lambda step, steps, logs: times.append((logs["loss"], logs["seconds"])),
    )
    return times


def train_stock(model: Any, rows: list[Any], directory: str, same_order: bool) -> list[tuple[float, float]]:
    """(loss, seconds) of every step of TRL's `SFTTrainer`, set up as its documentation does."""
    import time

    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from posttrain.lm.supervised_trainer import LengthGroupedBatches, _no_tokenizer, as_dataset

    class InOurOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return LengthGroupedBatches([len(row.input_ids) for row in rows], BATCH, self.args.seed)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                times.append((logs["loss"], time.perf_counter() - self.last))
                self.last = time.perf_counter()

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.last = time.perf_counter()

    times: list[tuple[float, float]] = []
    args = SFTConfig(
        output_dir=directory,
        learning_rate=LEARNING_RATE,
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        lr_scheduler_type="constant",
        use_cpu=True,
        bf16=True,
        seed=0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        gradient_checkpointing=False,  # TRL's default recomputes activations; off is the faster stock
        dataset_kwargs={"skip_prepare_dataset": True},
        disable_tqdm=True,
    )
    tokenizer = _no_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[UNK]", "eos_token": "[UNK]"})
    kind = InOurOrder if same_order else SFTTrainer
    trainer = kind(model, args, train_dataset=as_dataset(rows), processing_class=tokenizer, callbacks=[Clock()])
    trainer.train()
    return times


def measure(args: argparse.Namespace) -> None:
    """One run of one side, in this process; the figures go to standard output as a line of JSON."""
    import torch

    torch.set_num_threads(args.threads)
    shape = SHAPES[args.shape]
    model, rows = make_model(shape, args.model, args.full), make_rows(shape, args.steps * BATCH, args.model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as directory:
        if args.side == "ours":
            times = train_ours(model, rows, directory)
        else:
            times = train_stock(model, rows, directory, args.same_order)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {
        "losses": [loss for loss, _ in times],
        "seconds": [seconds for _, seconds in times],
        "tokens": sum(len(row.input_ids) for row in rows),
        "start_mb": before / 1024,
        "peak_mb": peak / 1024,
    }
    print("FIGURES " + json.dumps(figures))


def run(side: str, shape: str, args: argparse.Namespace, steps: int, same_order: bool = False) -> dict[str, Any]:
    """The figures of one run in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--shape", shape, "--steps", str(steps)]
    command += ["--threads", str(args.threads)] + ["--full"] * args.full + ["--same-order"] * same_order
    if args.model and shape == "stories260k":
        command += ["--model", args.model]
    root = str(Path(__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    if done.returncode or not lines:
        raise SystemExit(f"{side} {shape} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(lines[0].removeprefix("FIGURES "))
    seconds = figures["seconds"][WARMUP:]
    figures["speed"] = figures["tokens"] / steps * len(seconds) / sum(seconds)
    return figures


def compare(shape: str, args: argparse.Namespace) -> None:
    """Print loss agreement, then speed and memory of both sides."""
    ours, stock = (run(side, shape, args, LOSS_STEPS, same_order=True)["losses"] for side in ("ours", "stock"))
    gap = max(abs(a - b) for a, b in zip(ours, stock, strict=True))
    last = abs(ours[-1] - stock[-1])
    verdict = "equal" if last <= LOSS_TOLERANCE else "NOT EQUAL"
    tuning = "full" if args.full else "LoRA r=16"
    print(
        f"{shape}, {tuning}, batch {BATCH}, rows of {SHAPES[shape].shortest}-{SHAPES[shape].longest} tokens,",
        end=" ",
    )
    print(f"{SHAPES[shape].supervised:.0%} supervised, bf16 autocast, threads: {args.threads}")
    print(f"  loss after {LOSS_STEPS} steps in one order: ours {ours[-1]:.4f} stock {stock[-1]:.4f}", end=" ")
    print(f"({verdict}; largest gap of a step {gap:.4f})")
    pairs = [(run("ours", shape, args, args.steps), run("stock", shape, args, args.steps)) for _ in range(args.repeats)]
    for name, side in (("ours", 0), ("stock", 1)):
        speed = statistics.median(pair[side]["speed"] for pair in pairs)
        peak = statistics.median(pair[side]["peak_mb"] for pair in pairs)
        print(f"  {name:6} {speed:8,.0f} tokens/s   peak {peak:6,.0f} MB")
    ratios = [a["speed"] / b["speed"] for a, b in pairs]
    memory = [a["peak_mb"] / b["peak_mb"] for a, b in pairs]
    print(f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}),", end=" ")
    print(f"memory {statistics.median(memory):.2f}", flush=True)
    if last > LOSS_TOLERANCE:
        raise SystemExit("the losses differ: the speeds above compare different things")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="only this model")
    parser.add_argument("--model", help="a local model in place of a random one for stories260k")
    parser.add_argument("--full", action="store_true", help="full fine-tuning instead of LoRA")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=["ours", "stock"], help=argparse.SUPPRESS)
    parser.add_argument("--same-order", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        measure(args)
        return
    if args.model is None and STORIES.is_dir():
        args.model = str(STORIES)
    elif args.model is None:
        print(f"{STORIES} is absent: a random model of its shape and random tokens stand in")
    for shape in [args.shape] if args.shape else SHAPES:
        compare(shape, args)


if __name__ == "__main__":
    main()
