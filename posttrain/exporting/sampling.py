"""Completions of an exported file in its own runtime, in a process of its own: what its judge reads.

The file's own chat template and stop tokens are used. Blocks of conversations are the unit of resume, as in the chain's
own sampling; a block has its seeds from the ids of its rows.

    python -m posttrain.exporting.sampling FORMAT PATH THREADS CONTEXT MAX_NEW_TOKENS TEMPERATURE
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.errors import PosttrainError
from posttrain.exporting.formats import open_runtime
from posttrain.exporting.measure import ERROR, last_words
from posttrain.exporting.runtime import Runtime
from posttrain.rows import Row, read_rows, write_rows


class Asked(NamedTuple):
    """A conversation to be answered, under an id of its own."""

    id: str
    messages: list[dict[str, str]]


class FileSampling(NamedTuple):
    """How a file is sampled. `context` is the room of a row, prompt and answer together."""

    max_new_tokens: int
    temperature: float
    seed: int
    block_size: int
    context: int
    threads: int


def sample_file(
    name: str,
    path: Path,
    asked: Sequence[Asked],
    how: FileSampling,
    journal: Path,
    tick: Callable[[int, int], None],
) -> dict[str, Row]:
    """{id, text, stopped, tokens} by id, of a directory as the writer of format `name` left it.

    `tick(rows, tokens)` is called after each block of `journal`; finished blocks are read back and not made again.
    """
    journal.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(asked), how.block_size)
    blocks = {
        journal / f"block-{at:05d}.jsonl": asked[start : start + how.block_size] for at, start in enumerate(starts)
    }
    found: dict[str, Row] = {}
    with _process(name, path, how) as ask:
        for file, block in blocks.items():
            if not file.is_file():
                write_rows(file, ask([[one.id, one.messages, _seed(how.seed, one.id)] for one in block]))
            found |= {row["id"]: row for row in read_rows(file)}
            tick(len(found), sum(row["tokens"] for row in found.values()))
    return found


def _seed(seed: int, name: str) -> int:
    """31 bits, which every runtime takes."""
    return int.from_bytes(sha256(f"{seed}\n{name}".encode()).digest()[:4], "big") >> 1


@contextmanager
def _process(name: str, path: Path, how: FileSampling) -> Iterator[Callable[[Any], list[Row]]]:
    """What answers a block; the process starts with the first one and ends with the `with` block, however it ends."""
    numbers = (how.threads, how.context, how.max_new_tokens, how.temperature)
    command = [sys.executable, "-m", "posttrain.exporting.sampling", name, str(path), *map(str, numbers)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(how.threads), "HF_HUB_OFFLINE": "1"}
    running: list[subprocess.Popen[str]] = []

    def ask(block: Any) -> list[Row]:
        if not running:
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said}
            # A session of its own: Ctrl-C is for the chain, which then ends it.
            running.append(subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes))
        process = running[0]
        assert process.stdin is not None and process.stdout is not None
        try:
            print(json.dumps(block), file=process.stdin, flush=True)
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = process.wait()
            said.seek(0)
            raise PosttrainError(last_words(said.read().decode(errors="replace"), code, f"{name} {path}"))
        rows: list[Row] = json.loads(line)
        return rows

    with tempfile.TemporaryFile() as said:  # not a pipe: one that nobody empties stops whoever writes to it
        try:
            yield ask
        finally:
            for process in running:
                process.kill()
                process.communicate()


def answer(runtime: Runtime, block: Sequence[Any], max_new_tokens: int, temperature: float) -> list[Row]:
    """The rows of one block of [id, messages, seed]."""
    prompts = [runtime.render(messages) for _, messages, _ in block]
    seeds = [seed for _, _, seed in block]
    made = runtime.complete_block(prompts, max_new_tokens, temperature, seeds)
    return [
        {"id": row[0], "text": runtime.text(one.ids), "stopped": one.stopped, "tokens": len(one.ids) + one.stopped}
        for row, one in zip(block, made, strict=True)
    ]


def _main(name: str, path: str, threads: str, context: str, max_new_tokens: str, temperature: str) -> None:
    """The sampling process: a block a line, in and out, until the other end of the pipe is gone."""
    try:
        with open_runtime(name, Path(path), int(threads), int(context)) as runtime:
            for line in sys.stdin:
                rows = answer(runtime, json.loads(line), int(max_new_tokens), float(temperature))
                print(json.dumps(rows), flush=True)
            os._exit(0)  # a runtime's own threads may not end
    except PosttrainError as error:
        sys.exit(f"{ERROR}{error}")


if __name__ == "__main__":
    _main(*sys.argv[1:])
