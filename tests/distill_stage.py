"""A tiny student, a teacher and rows for the distill stage, and one call of it: what its tests share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from stage_context import context, given, run

from data_gen.story import tell
from posttrain.chain.stage import StageContext, Tick
from posttrain.rows import Row, write_rows

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
QUICK = {"learning_rate": 1e-2, "per_device_train_batch_size": 8, "bf16": False, "max_length": 96, "save_steps": 2}


def conversation(number: int, answer: str) -> Row:
    asked = {"role": "user", "content": f"Story {number}."}
    return {"id": str(number), "messages": [asked, {"role": "assistant", "content": answer}]}


def write_data(folder: Path, rows: list[Row]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.jsonl", rows[4:])
    write_rows(folder / "test.jsonl", rows[:4])
    return folder


def first_sentence(number: int) -> str:
    return tell(4, number).text.split(".")[0] + "."


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return write_data(folder, [conversation(i, first_sentence(i)) for i in range(36)])


def new_model(folder: Path, seed: int, tokenizer: Any, **shape: int) -> Path:
    from posttrain.lm.chat import TEMPLATE
    from posttrain.lm.models import load_tokenizer, save_model
    from posttrain.lm.pretraining import Architecture, new_model
    from posttrain.lm.tokenizer import save_tokenizer

    folder.mkdir()
    save_tokenizer(tokenizer, TEMPLATE, 128, folder)
    model = new_model(
        Architecture(**{**SMALL, "max_position_embeddings": 128, **shape}), tokenizer.get_vocab_size(), 0, 3, seed
    )
    for weight in model.parameters():
        weight.data.mul_(4.0 if weight.dim() == 2 else 1.0)  # sure of something, as a trained model is
    save_model(model, load_tokenizer(folder), folder)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A student and a teacher of three layers, with one tokenizer."""
    from posttrain.lm.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("pair")
    tokenizer = train_tokenizer((tell(1, i).text for i in range(40)), 300)
    return (
        new_model(folder / "student", 1, tokenizer),
        new_model(folder / "teacher", 2, tokenizer, hidden_size=24, num_hidden_layers=3),
    )


class Stop(NamedTuple):
    """Where a run is interrupted: when so many of these are done."""

    unit: str
    after: int


def stopping(ctx: StageContext, stop: Stop) -> StageContext:
    @contextmanager
    def progress(total: int, unit: str) -> Iterator[Tick]:
        def tick(done: int, note: str = "", total: int | None = None) -> None:
            if unit == stop.unit and done >= stop.after:
                raise KeyboardInterrupt

        yield tick

    return replace(ctx, progress=progress)


@pytest.fixture(scope="module")
def other_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose tokens are other strings, as many."""
    from posttrain.lm.tokenizer import train_tokenizer

    tokenizer = train_tokenizer((tell(2, i).text[::-1] for i in range(40)), 300)
    return new_model(tmp_path_factory.mktemp("other") / "teacher", 3, tokenizer)


def distil(folder: Path, pair: tuple[Path, Path], data: Path, stop: Stop | None = None, **settings: Any) -> Any:
    """The stage's metrics; the student is the pair's unless `architecture` or `layers` says another."""
    inputs = {"teacher": given(pair[1]), "data": given(data)}
    if not {"architecture", "layers"} & settings.keys():
        settings, inputs = {"model": "m", **settings}, {"model": given(pair[0]), **inputs}
    ctx = context(folder, **inputs)
    settings = {**QUICK, **settings}
    return run("distill", stopping(ctx, stop) if stop else ctx, teacher="t", data="d", **settings)


def weights(folder: Path) -> bytes:
    return (folder / "out" / "model.safetensors").read_bytes()


def hashes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
