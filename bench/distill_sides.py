"""The sides of bench/distill.py, which starts them: each is one run in a process of its own, told by a line of JSON
on its command line, and prints its figures as another.
"""

import json
import random
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

LEARNING_RATE = 1e-3
WARMUP = 2  # steps that are not timed
GKD_BETA = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}
HEAD_SIZE = 48


@dataclass(frozen=True)
class Setup:
    """One run: which side, a pair of random Llamas, rows of random tokens, and how they are trained."""

    side: str
    divergence: str
    vocabulary: int
    student_hidden: int  # this and the teacher's: a multiple of 96, for an even number of heads
    student_layers: int
    teacher_hidden: int
    teacher_layers: int
    batch: int
    shortest: int  # tokens of a row
    longest: int
    supervised: float  # share of a row, at its end
    draws: int  # a position, of cached targets
    steps: int
    threads: int
    bf16: bool
    targets: str  # folder of the cached targets


class Stamp(NamedTuple):
    """The loss of a step, and the clocks in seconds when it was done."""

    loss: float
    wall: float
    cpu: float


class Figures(NamedTuple):
    """What a side tells: losses by step, seconds and the tokens they took, and what only it knows."""

    losses: list[float]
    seconds: float
    cpu_seconds: float
    tokens: float
    more: dict[str, Any]


def stamp(loss: float = 0.0) -> Stamp:
    return Stamp(loss, time.perf_counter(), time.process_time())


def make_model(setup: Setup, hidden: int, layers: int, seed: int) -> Any:
    """A random Llama, tied; its weights are large enough for a distribution that is not flat."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(seed)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // HEAD_SIZE,
        vocab_size=setup.vocabulary,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config)


def make_student(setup: Setup) -> Any:
    return make_model(setup, setup.student_hidden, setup.student_layers, seed=0)


def make_teacher(setup: Setup) -> Any:
    return make_model(setup, setup.teacher_hidden, setup.teacher_layers, seed=1).eval().requires_grad_(False)


def make_rows(setup: Setup) -> list[Any]:
    """Random tokens; the last `supervised` share of a row counts. Speed does not depend on what the tokens say."""
    from posttrain.lm.token_row import TokenRow

    rng, rows = random.Random(0), []
    for i in range(setup.steps * setup.batch):
        length = rng.randint(setup.shortest, setup.longest)
        ids = [rng.randrange(3, setup.vocabulary) for _ in range(length)]
        rows.append(TokenRow(str(i), ids, [j >= length * (1 - setup.supervised) for j in range(length)]))
    return rows


def trained(stamps: list[Stamp], rows: list[Any], **more: Any) -> Figures:
    """The figures of a training run; the share of the tokens is that of the timed steps."""
    first, last = stamps[WARMUP - 1], stamps[-1]
    tokens = sum(len(row.input_ids) for row in rows) * (len(stamps) - WARMUP) / len(stamps)
    return Figures([s.loss for s in stamps], last.wall - first.wall, last.cpu - first.cpu, tokens, more)


def ours(setup: Setup, rows: list[Any], objective: Any, directory: str) -> list[Stamp]:
    """A stamp after every step, trained as `posttrain run` trains; without an objective on the labels alone."""
    from posttrain.lm.distillation.training import distil
    from posttrain.lm.sft import train

    stamps: list[Stamp] = []
    how: Any = {
        "settings": training_settings(setup),
        "checkpoint_dir": Path(directory),
        "on_step": lambda step, steps, logs: stamps.append(stamp(logs["loss"])),
    }
    if objective is None:
        train(make_student(setup), rows, **how)
    else:
        distil(make_student(setup), rows, objective, **how)
    return stamps


def training_settings(setup: Setup) -> Any:
    from posttrain.lm.sft import SFTSettings

    return SFTSettings(
        learning_rate=LEARNING_RATE,
        batch_size=setup.batch,
        warmup_ratio=0.0,
        lr_scheduler_type="constant",
        bf16=setup.bf16,
        packing=False,
        save_every_steps=1_000_000,
    )


def plain(setup: Setup, rows: list[Any], directory: str) -> Figures:
    """Cross entropy with the labels: what a student costs that has no teacher at all."""
    return trained(ours(setup, rows, None, directory), rows)


def online(setup: Setup, rows: list[Any], directory: str) -> Figures:
    """`method: logits`."""
    from posttrain.lm.distillation.logit_loss import LogitDistillation
    from posttrain.lm.distillation.objectives import Logits

    settings: Any = {"divergence": setup.divergence, "beta": GKD_BETA["jsd"]}
    objective = Logits(make_teacher(setup), LogitDistillation(**settings), setup.vocabulary)
    return trained(ours(setup, rows, objective, directory), rows)


def store_of(setup: Setup, rows: list[Any], folder: str) -> Any:
    from posttrain.lm.distillation.sampled_targets import TargetSettings
    from posttrain.lm.distillation.target_store import Origin, TargetStore

    origin = Origin("random tokens", f"random teacher in {'bf16' if setup.bf16 else 'fp32'}")
    return TargetStore(Path(folder), rows, origin, TargetSettings(setup.vocabulary, setup.draws))


def fill(setup: Setup, rows: list[Any], directory: str) -> Figures:
    """The one pass of the teacher before `method: cached`: every row is drawn for, and 1 % of it read again."""
    from posttrain.lm.distillation.training import as_in_training

    teacher, store = make_teacher(setup), store_of(setup, rows, setup.targets)
    with as_in_training(teacher, training_settings(setup)):
        store_of(setup, rows[: 2 * setup.batch], directory).make(teacher)  # not timed, as the first steps of the others
        begin = stamp()
        made = store.make(teacher)
        store.verify(teacher)
        end = stamp()
    tokens = sum(len(row.input_ids) for row in rows)
    more = {"bytes_per_supervised": made.bytes_per_token, "bytes_per_token": made.file_bytes / tokens}
    return Figures([], end.wall - begin.wall, end.cpu - begin.cpu, tokens, more)


def cached(setup: Setup, rows: list[Any], directory: str) -> Figures:
    """`method: cached`, the targets being there."""
    from posttrain.lm.distillation.objectives import Cached

    objective = Cached(store_of(setup, rows, setup.targets), alpha=0.0)
    return trained(ours(setup, rows, objective, directory), rows)


def check(setup: Setup, rows: list[Any], directory: str) -> Figures:
    """`cached` again, with the teacher beside it to say what each loss would be over the whole distribution."""
    from bench.distill_witness import Witness, faults, verdict

    witness = Witness(store_of(setup, rows, setup.targets), make_teacher(setup))
    stamps = ours(setup, rows, witness, directory)
    found = verdict(witness)
    return trained(stamps, rows, found=found, faults=faults(found))


def gkd(setup: Setup, rows: list[Any], directory: str) -> Figures:
    """TRL's `GKDTrainer` without student samples; recomputation of activations, its default, is off: faster."""
    from transformers import TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    from posttrain.lm.supervised_trainer import LengthGroupedBatches, _no_tokenizer, as_dataset, collate

    class InOurOrder(GKDTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return LengthGroupedBatches([len(row.input_ids) for row in rows], setup.batch, self.args.seed)

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
    tokenizer = _no_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[UNK]", "eos_token": "[UNK]"})
    trainer = InOurOrder(
        make_student(setup),
        make_teacher(setup),
        args=GKDConfig(**gkd_settings(setup, directory)),
        data_collator=with_mask,
        train_dataset=as_dataset(rows),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    return trained(stamps, rows)


def gkd_settings(setup: Setup, directory: str) -> dict[str, Any]:
    """What `training_settings` says, in TRL's words."""
    return {
        "output_dir": directory,
        "learning_rate": LEARNING_RATE,
        "num_train_epochs": 1,
        "per_device_train_batch_size": setup.batch,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": setup.bf16,
        "seed": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "gradient_checkpointing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "lmbda": 0.0,
        "beta": GKD_BETA[setup.divergence],
        "temperature": 1.0,
        "max_length": None,
    }


SIDES = {"gkd": gkd, "online": online, "fill": fill, "cached": cached, "check": check, "plain": plain}


def main() -> None:
    """Run the side that the argument names."""
    import torch

    setup = Setup(**json.loads(sys.argv[1]))
    torch.set_num_threads(setup.threads)
    with tempfile.TemporaryDirectory() as directory:
        figures = SIDES[setup.side](setup, make_rows(setup), directory)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("FIGURES " + json.dumps(figures._asdict() | {"peak_mb": peak}))


if __name__ == "__main__":
    main()
