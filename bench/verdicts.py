"""What a judge adds to an endpoint's own time: verdicts on different stories, from a server that takes 50 ms for each.

The whole path: the test call, prompts from the bundled rubric, the journal on this disk, replies read into verdicts.
Then all of it again with another `Asker` and the same journal, which must send nothing. The ideal is the server's time
alone, in rounds of `--concurrency`; bare sockets show what this machine allows at that moment. The server is
tests/misbehaving_server.py in a process of its own; `--logprobs` makes it send five alternatives a token.

    python -m bench.verdicts [--verdicts 1000] [--concurrency 32] [--repeats 3] [--logprobs]
"""

import argparse
import asyncio
import json
import os
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.remote import SECONDS, SERVER, bare, ideal_seconds, ratio, serving
from data_gen.story import tell
from eval.llm_judge import llm_judge
from eval.rubric import load_rubric
from eval.verdict import Verdict
from posttrain.chain.stage import Tick
from posttrain.engines.endpoint import Endpoint
from posttrain.engines.journal import Journal
from posttrain.engines.probe import EXPECTED
from posttrain.rows import Row, read_rows
from posttrain.stages.asking import Asker

EVAL = Path(__file__).parents[1] / "eval"
RUBRIC = load_rubric((EVAL / "rubrics" / "story.md").read_text(encoding="utf-8"))
REASON = "The hero wants a thing, loses it and finds it again, and the last sentence says what was learnt."
PIECE = re.compile(r"\s?\w+|\s?[^\w\s]|\s")  # about a token
ALTERNATIVES = 5


class Run(NamedTuple):
    """One pass over all rows: seconds of the test call and of the verdicts, and the calls that were sent."""

    test_call: float
    seconds: float
    cpu: float  # seconds, of the verdicts
    calls: float
    verdicts: Sequence[Mapping[str, Verdict]]


def answers(count: int) -> tuple[dict[str, Row], list[Row]]:
    """Prompts by id, and `count` different stories as answers to them in turn."""
    prompts = read_rows(EVAL / "prompts" / "tinystories.jsonl")
    texts = list(dict.fromkeys(tell(1, number).text for number in range(2 * count)))[:count]
    rows = [{"id": prompts[n % len(prompts)]["id"], "text": text, "stopped": True} for n, text in enumerate(texts)]
    assert len(rows) == count, f"{len(rows)} different stories"
    return {row["id"]: row for row in prompts}, rows


@contextmanager
def unseen(total: int, unit: str) -> Iterator[Tick]:
    """A progress bar that nobody looks at."""
    yield lambda done, note="", total=None: None


def judged(endpoint: Endpoint, path: Path, prompts: Mapping[str, Row], rows: Sequence[Row]) -> Run:
    """Judge all rows through the journal at `path`."""
    with Journal(path) as journal:
        sent, start = journal.spent("").requests, time.perf_counter()
        asker = Asker(endpoint, journal, "", None, unseen)
        ready, cpu = time.perf_counter(), time.process_time()
        verdicts = llm_judge(asker.ask, RUBRIC, prompts)(rows)
        end, used = time.perf_counter(), time.process_time() - cpu
        return Run(ready - start, end - ready, used, journal.spent("").requests - sent, verdicts)


def measure(port: int, count: int, concurrency: int, logprobs: bool) -> float:
    """Bare sockets, the judge, the judge again; exits where a verdict is missing or a call too many was sent.

    The judge's time beside the ideal.
    """
    prompts, rows = answers(count)
    ideal = ideal_seconds(count, concurrency)
    url = f"http://127.0.0.1:{port}/v1"
    alternatives = ALTERNATIVES if logprobs else 0
    endpoint = Endpoint(
        model="double", base_url=url, concurrency=concurrency, max_tokens=1024, top_logprobs=alternatives
    )
    start, cpu = time.perf_counter(), time.process_time()
    asyncio.run(bare(port, count, concurrency))
    print("bare sockets", ratio(time.perf_counter() - start, time.process_time() - cpu, ideal, count))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        first, again = (judged(endpoint, path, prompts, rows) for _ in range(2))
    for name, run in (("verdicts    ", first), ("again       ", again)):
        print(name, ratio(run.seconds, run.cpu, ideal, count), end="; ")
        print(f"{run.calls:.0f} calls, test call {run.test_call:.2f} s")
    scores = [verdict.score for verdicts in first.verdicts for verdict in verdicts.values()]
    if None in scores or first.verdicts != again.verdicts or (first.calls, again.calls) != (count + 1, 0):
        sys.exit("a verdict is missing, another one came the second time, or calls were not as many as verdicts")
    return first.seconds / ideal


def memory() -> str:
    """The most memory that this process had."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"


def serve(logprobs: bool) -> None:
    """The server's process: the test call is obeyed, and every other call gets one and the same verdict."""
    sys.path.insert(0, str(SERVER.parent))
    from misbehaving_server import Call, Reply, Server, chat  # type: ignore[import-not-found]

    graded: dict[str, Any] = {axis: {"reason": REASON, "score": 7} for axis in RUBRIC.axes}
    text = json.dumps({**graded, "age_group": {"reason": REASON, "choice": "B"}})
    said = [
        json.dumps(chat(each, logprobs=tokens(each) if logprobs else None)) for each in (text, json.dumps(EXPECTED))
    ]
    verdict, obeyed = (Reply(body=body.encode(), delay=SECONDS) for body in said)

    def script(call: Call) -> Reply:
        return verdict if "BEGIN ANSWER" in call.prompt else obeyed

    server = Server(script)
    asyncio.run(server.serve(lambda: print(server.port, flush=True)))


def tokens(text: str) -> dict[str, Any]:
    """Logprobs as OpenAI writes them: each piece, and alternatives to it."""
    others = [{"token": f" {n + 5}", "logprob": -4.0 - n, "bytes": [32, 53 + n]} for n in range(ALTERNATIVES - 1)]
    content = []
    for piece in PIECE.findall(text):
        first = {"token": piece, "logprob": -0.1, "bytes": list(piece.encode())}
        content.append({**first, "top_logprobs": [first, *others]})
    return {"content": content}


def main() -> None:
    """Warm up, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--logprobs", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.logprobs)
    with serving("-m", "bench.verdicts", "--serve", *(["--logprobs"] if options.logprobs else [])) as port:
        ratios = []
        for repeat in range(options.repeats + 1):
            count = options.verdicts if repeat else options.concurrency  # first: imports and connections
            load = os.getloadavg()[0]
            print(
                f"{f'run {repeat}' if repeat else 'warm-up'}: {count} verdicts, {options.concurrency} at once,", end=" "
            )
            print(f"load {load:.1f}, {memory()} at most so far")
            ratios.append(measure(port, count, options.concurrency, options.logprobs))
        print(f"{statistics.median(ratios[1:]):.2f} x ideal (median of {options.repeats} runs), {memory()} at most")


if __name__ == "__main__":
    main()
