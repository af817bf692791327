"""An exported file, measured by itself: what it computes, how fast, in how much memory, in a process of its own.

The process loads the file in the runtime that its users will have and nothing else, so that its memory is the file's.

    python -m posttrain.exporting.measure REQUEST.json RESULT.json
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from posttrain.errors import PosttrainError
from posttrain.exporting.formats import format_of
from posttrain.exporting.runtime import Decoded, Runtime, Scored

MB = 1e6
NEW_TOKENS = 64  # of each greedy completion


class Row(NamedTuple):
    """An answer to be scored: ids of the tokenizer that the model was trained with."""

    id: str
    prompt: list[int]
    answer: list[int]


class Corpus(NamedTuple):
    """What a file is asked. Every file of a comparison gets the same."""

    rows: list[Row]  # to be scored
    texts: list[str]  # to be encoded
    conversations: list[list[dict[str, str]]]  # to be rendered by the file's chat template
    prompts: list[list[int]]  # to be completed greedily; speed is measured on these


class ScoredRow(NamedTuple):
    """The tokens of one answer."""

    id: str
    tokens: list[Scored]


class Greedy(NamedTuple):
    """A greedy completion, without its stop token."""

    ids: list[int]
    stopped: bool


class Timed(NamedTuple):
    """Tokens and the time they took, as edge runtimes print it."""

    milliseconds: float
    tokens: int

    @property
    def ms_per_token(self) -> float:
        """Milliseconds a token; 0 for none."""
        return self.milliseconds / self.tokens if self.tokens else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second; 0 for none."""
        return 1000 * self.tokens / self.milliseconds if self.milliseconds else 0.0


class Measured(NamedTuple):
    """All that was measured of one file. Memory is of the whole process, in units of 10^6 bytes."""

    size_bytes: int
    load_seconds: float
    idle_mb: float  # before the file is opened, its runtime's libraries loaded
    peak_mb: float  # after loading and completing, as a user does; scoring comes later
    prefill: Timed
    decode: Timed  # all new tokens but the first of each completion
    rows: list[ScoredRow]
    encoded: list[list[int]]
    rendered: list[list[int]]
    greedy: list[Greedy]


def measure(name: str, path: Path, corpus: Corpus, *, threads: int, top: int, new_tokens: int = NEW_TOKENS) -> Measured:
    """Measure a directory as the writer of format `name` left it, in a clean process of `threads` threads.

    `top` likeliest ids of each scored token are kept. A process that dies is a `PosttrainError` with its last words.
    """
    from pydantic import TypeAdapter

    request = {"name": name, "path": str(path), "corpus": corpus, "threads": threads, "top": top}
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder, "request.json"), Path(folder, "result.json")
        asked.write_text(json.dumps({**request, "new_tokens": new_tokens}), encoding="utf-8")
        command = [sys.executable, "-m", "posttrain.exporting.measure", str(asked), str(told)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode or not told.is_file():
            raise PosttrainError(last_words(done.stderr, done.returncode, f"{name} {path}"))
        return TypeAdapter(Measured).validate_json(told.read_bytes())


def last_words(said: str, code: int, where: str) -> str:
    """What a process that failed has to say: its own error as it is, or how it died and its last line."""
    lines = [line for line in said.splitlines() if line.strip()]
    own = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    if own:
        heard = [line.partition(" E ")[2].strip() for line in lines if " E " in line]  # llama.cpp's own lines
        return f"{own[-1]} llama.cpp says: {heard[0]}" if heard else own[-1]
    return (
        f"{where}: its process ended with {code} ({lines[-1] if lines else 'no word'}); "
        "0 is needed. A negative number is a signal: 9 is mostly for want of memory."
    )


ERROR = "posttrain: "


def measure_here(name: str, path: Path, corpus: Corpus, *, threads: int, top: int, new_tokens: int) -> Measured:
    """The same in this process; memory is then that of everything in it."""
    chosen = format_of(name)
    open_file = chosen.opener()
    context = max(
        [len(row.prompt) + len(row.answer) for row in corpus.rows]
        + [len(prompt) + new_tokens for prompt in corpus.prompts]
    )
    idle, start = memory_mb("VmRSS"), perf_counter()
    with open_file(path, threads, context) as runtime:
        loaded = perf_counter() - start
        made = _complete(runtime, corpus.prompts, new_tokens)
        peak = memory_mb("VmHWM")
        return Measured(
            size_bytes=chosen.size(path),
            load_seconds=loaded,
            idle_mb=idle,
            peak_mb=peak,
            prefill=Timed(1000 * sum(one.prefill_seconds for one in made), sum(map(len, corpus.prompts))),
            decode=Timed(1000 * sum(one.decode_seconds for one in made), sum(one.steps for one in made)),
            rows=[ScoredRow(row.id, runtime.score(row.prompt, row.answer, top)) for row in corpus.rows],
            encoded=[runtime.encode(text) for text in corpus.texts],
            rendered=[runtime.render(conversation) for conversation in corpus.conversations],
            greedy=[Greedy(one.ids, one.stopped) for one in made],
        )


def _complete(runtime: Runtime, prompts: Sequence[list[int]], new_tokens: int) -> list[Decoded]:
    """Greedy completions; the first prompt is completed once before, untimed: a first call prepares what others use."""
    runtime.complete(prompts[:1], new_tokens, 0.0, [0] * len(prompts[:1]))
    return runtime.complete(prompts, new_tokens, 0.0, [0] * len(prompts))


def memory_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (peak since the program started) of this process, in units of 10^6 bytes."""
    status = Path("/proc/self/status")
    if not status.is_file():  # not Linux, where ru_maxrss would also count the process that started this one
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MB
    for line in status.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / MB
    raise PosttrainError(f"{status}: no {field}; it is needed to measure memory. Run on a usual Linux kernel.")


def _main(request_file: str, result_file: str) -> None:
    """The measuring process. It ends at once, because a runtime's own threads may not."""
    request: dict[str, Any] = json.loads(Path(request_file).read_text(encoding="utf-8"))
    corpus = Corpus(**dict(zip(Corpus._fields, request.pop("corpus"), strict=True)))
    corpus = corpus._replace(rows=[Row(*row) for row in corpus.rows])
    try:
        measured = measure_here(**{**request, "path": Path(request["path"]), "corpus": corpus})
    except PosttrainError as error:
        sys.exit(f"{ERROR}{error}")
    Path(result_file).write_text(json.dumps(measured), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
