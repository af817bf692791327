"""One run of bench/distill_text.py: a new student trained on documents by a method, and what held-out text costs it."""

import argparse
import hashlib
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from bench.plain_text import (
    Document,
    Openings,
    bits_per_byte,
    border_quality,
    document_nats,
    most_shared,
    split,
    tidy,
    windows,
)
from posttrain.chain.stage import Input, StageContext, Tick
from posttrain.lm.token_row import TokenRow
from posttrain.rows import read_rows
from posttrain.stages.distilling import Examples, Pair

METHODS = {"control": "sequence", "logits": "logits", "cached": "cached"}  # `sequence` trains with sft's `train`
SET_ASIDE = 20  # every so many-th training document trains nothing and picks the learning rate
PROBED = 200  # documents at whose end the teacher is asked what it expects there
EQUAL = ("parameters", "learning_rate", "start", "rows", "order", "steps", "tokens")
Figures = dict[str, Any]


class Texts(NamedTuple):
    """Documents."""

    train: list[str]
    tune: list[str]
    valid: list[str]


class Material(NamedTuple):
    """What every run starts from. Training rows supervise a document's end too; the other documents have none."""

    tokenizer: Any
    teacher: Any
    ends: dict[str, float]  # nats of the teacher for each token that may stand behind a document
    rows: list[TokenRow]
    cut: int  # training documents in more than one row
    tune: list[Document]
    valid: list[Document]


def read_texts(args: argparse.Namespace) -> Texts:
    """Both files; what opens a document of the training file shows where those of the plain text begin."""
    told = [tidy(row["text"]) for row in read_rows(args.train)]
    valid = split(args.valid.read_text(encoding="utf-8"), Openings(told))
    return Texts([text for at, text in enumerate(told) if at % SET_ASIDE], told[::SET_ASIDE], valid)


def encode(tokenizer: Any, text: str) -> Document:
    """BOS and the text, whose control tokens, if any, are text."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return Document([tokenizer.bos_token_id, *ids], len(text.encode()))


def prepare(args: argparse.Namespace) -> Material:
    """Teacher and rows; behind a training document stands the token that the teacher expects there."""
    from posttrain.lm.models import load_model, load_tokenizer

    teacher, tokenizer = load_model(args.teacher).eval().requires_grad_(False), load_tokenizer(args.teacher)
    texts = read_texts(args)
    tune, valid = ([encode(tokenizer, text) for text in part] for part in (texts.tune, texts.valid))
    ends = end_nats(teacher, tokenizer, tune[:PROBED], args.max_length)
    end = tokenizer.convert_tokens_to_ids(min(ends, key=lambda token: ends[token]))
    train = [
        windows(str(at), [*encode(tokenizer, text).ids, end], args.max_length) for at, text in enumerate(texts.train)
    ]
    cut = sum(len(rows) > 1 for rows in train)
    return Material(tokenizer, teacher, ends, [row for rows in train for row in rows], cut, tune, valid)


def end_nats(teacher: Any, tokenizer: Any, documents: Sequence[Document], length: int) -> dict[str, float]:
    """Mean nats of BOS and of EOS behind documents: either may stand between those that a model learned from."""
    from posttrain.lm.nll import row_nll

    found = {}
    for token in (tokenizer.bos_token, tokenizer.eos_token):
        end = tokenizer.convert_tokens_to_ids(token)
        last = [windows("", [*document.ids, end], length, length // 2)[-1] for document in documents]
        rows = [row._replace(supervised=[False] * (len(row.input_ids) - 1) + [True]) for row in last]
        found[token] = sum(row_nll(teacher, rows)) / len(rows)
    return found


def settings_of(args: argparse.Namespace, method: str, seed: int, rate: float) -> Any:
    """The step `distill` with its defaults, but for what the benchmark names."""
    from posttrain.stages.distill import DistillConfig

    shape = {
        "hidden_size": args.hidden,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "intermediate_size": args.intermediate,
        "max_position_embeddings": args.max_length,
    }
    named = {"architecture": shape, "teacher": "teacher", "data": "documents", "method": METHODS[method]}
    how = {"learning_rate": rate, "num_train_epochs": args.epochs, "per_device_train_batch_size": args.batch_size}
    return DistillConfig.model_validate(
        {"kind": "distill", "seed": seed, "max_length": args.max_length, **named, **how}
    )


def new_student(config: Any, tokenizer: Any) -> Any:
    """A random student with the teacher's tokens: a function of shape and seed."""
    from posttrain.lm.pretraining import new_model

    rows = max(tokenizer.get_vocab().values()) + 1
    return new_model(config.architecture, rows, tokenizer.eos_token_id, tokenizer.pad_token_id, config.seed)


def run(args: argparse.Namespace, method: str, seed: int, rate: float) -> Figures:
    """Train as the stage does and measure; nats are those of whole documents. CPU seconds, memory in MB."""
    from posttrain.lm.distillation.training import distil
    from posttrain.lm.models import parameters
    from posttrain.lm.sft import train
    from posttrain.stages.distill_methods import choose
    from posttrain.stages.training import trainer_settings

    config, material = settings_of(args, method, seed, rate), prepare(args)
    student = new_student(config, material.tokenizer)
    start, order = weights_hash(student), hashlib.sha256()
    watch = student.get_input_embeddings().register_forward_pre_hook(lambda module, ids: order.update(ids[0].numpy()))
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        chosen = choose(config, context_of(args, Path(folder)), pair_of(student, material), examples_of(material))
        read = time.process_time()
        how = {"settings": trainer_settings(config), "checkpoint_dir": Path(folder), "on_step": lambda *figures: None}
        if chosen.objective is None:
            result = train(student, material.rows, **how)
        else:
            result = distil(student, material.rows, chosen.objective, **how)
        done = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    watch.remove()
    return {
        "method": method,
        "seed": seed,
        "learning_rate": rate,
        "parameters": parameters(student),
        "embedding": student.get_input_embeddings().weight.numel(),
        "start": start,
        "rows": hashlib.sha256(repr(material.rows).encode()).hexdigest(),
        "order": order.hexdigest(),
        "steps": result.steps,
        "tokens": result.tokens,
        "reading_seconds": read - began,
        "training_seconds": done - read,
        "peak_mb": peak,
        "tune": document_nats(student, material.tune, args.max_length),
        "valid": document_nats(student, material.valid, args.max_length),
    }


def teacher_figures(args: argparse.Namespace) -> Figures:
    """What the files hold, what the teacher pays for the held-out text, and what the file's own breaks would cost it.

    `blank_lines` is the bits per byte of the same documents with a blank line between paragraphs.
    """
    from posttrain.lm.models import parameters

    material, texts = prepare(args), read_texts(args)
    spaced = [encode(material.tokenizer, text.replace("\n", "\n\n")) for text in texts.valid]
    sizes = [document.size for document in spaced]
    return {
        "parameters": parameters(material.teacher),
        "ends": material.ends,
        "rows": len(material.rows),
        "cut": material.cut,
        "train": len(texts.train),
        "tokens": sum(sum(row.supervised) for row in material.rows),
        "tune": document_nats(material.teacher, material.tune, args.max_length),
        "valid": document_nats(material.teacher, material.valid, args.max_length),
        "tune_sizes": [document.size for document in material.tune],
        "valid_sizes": [document.size for document in material.valid],
        "valid_tokens": sum(len(document.ids) - 1 for document in material.valid),
        "blank_lines": bits_per_byte(document_nats(material.teacher, spaced, args.max_length), sizes).mean,
        "borders": border_quality([*texts.train, *texts.tune])._asdict(),
        "shared": most_shared(texts.train, texts.valid),
    }


def differing(figures: Sequence[Figures]) -> list[str]:
    """What runs that are to be compared do not have in common: none of start, rows, order and the like may differ."""
    return [name for name in EQUAL if len({each[name] for each in figures}) > 1]


def weights_hash(model: Any) -> str:
    """Of all weights, with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.numpy())
    return digest.hexdigest()


def pair_of(student: Any, material: Material) -> Pair:
    """The stage's pair; these methods read the tokenizer of a chat format alone."""
    from posttrain.lm.distillation.vocabularies import check_same_vocabulary

    chat: Any = SimpleNamespace(tokenizer=material.tokenizer)
    real_ids = check_same_vocabulary(material.tokenizer, material.tokenizer)
    return Pair(student, chat, material.teacher, chat, real_ids)


def examples_of(material: Material) -> Examples:
    """The stage's rows, which are those of both models."""
    return Examples(material.rows, material.rows, [], too_long=0, unanswered=0, aligned=[])


def context_of(args: argparse.Namespace, folder: Path) -> StageContext:
    """Where the stage's parts run: a folder that goes, and no bars."""

    @contextmanager
    def silent(total: int, unit: str) -> Iterator[Tick]:
        yield lambda done, note="", total=None: None

    weights = hashlib.sha256((args.teacher / "model.safetensors").read_bytes()).hexdigest()
    inputs = {"teacher": Input(args.teacher, weights, str(args.teacher))}
    return StageContext(inputs, "bench", folder / "journal", folder / "out", folder / "work", silent, lambda text: None)
