"""What the remote engine adds to an endpoint's own time: requests over a server that takes 50 ms for each.

The ideal is the server's time alone: requests in rounds of `--concurrency`. The server is a process of its own. Beside
the engine: the same list again, from the journal; the engine over httpx2's own connection pool; and a bare loop over
sockets, which shows what this machine allows.

    python bench/remote.py [--requests 1000] [--concurrency 32] [--repeats 3]
"""

import argparse
import asyncio
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2

from posttrain.engines import wire
from posttrain.engines.endpoint import Answer, Endpoint, Request
from posttrain.engines.journal import Journal
from posttrain.engines.openai_engine import complete
from posttrain.engines.transport import Pooled, transport_for

Transport = Callable[[str, int, int], httpx2.AsyncBaseTransport]
SERVER = Path(__file__).parents[1] / "tests" / "misbehaving_server.py"
SECONDS = 0.05


@contextmanager
def serving(*command: str) -> Iterator[int]:
    """The port of a Python program that prints it and serves; a process of its own, for as long as the block."""
    server = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.terminate()
        server.wait()


def ideal_seconds(count: int, concurrency: int) -> float:
    """The server's time alone: rounds of `concurrency`."""
    return SECONDS * math.ceil(count / concurrency)


async def bare(port: int, requests: int, concurrency: int) -> None:
    """The same calls with hand-written HTTP: no client, no journal."""
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 64}).encode()
    call = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    left = iter(range(requests))

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(call)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
        writer.close()

    await asyncio.gather(*(worker() for _ in range(concurrency)))


def ratio(seconds: float, cpu: float, ideal: float, requests: int) -> str:
    """Wall seconds beside the ideal, and CPU seconds a request."""
    return f"{seconds:6.2f} s = {seconds / ideal:.2f} x ideal, {1000 * cpu / requests:.2f} ms of CPU a request"


def measure(port: int, count: int, concurrency: int) -> None:
    """One line each: bare, through the engine, again from the journal."""
    endpoint = Endpoint(model="double", base_url=f"http://127.0.0.1:{port}/v1", concurrency=concurrency, max_tokens=64)
    requests = [Request([{"role": "user", "content": f"question {n}"}]) for n in range(count)]
    ideal = ideal_seconds(count, concurrency)
    start, cpu = time.perf_counter(), time.process_time()
    asyncio.run(bare(port, count, concurrency))
    print("bare sockets        ", ratio(time.perf_counter() - start, time.process_time() - cpu, ideal, count))
    _engine(
        ["over httpx2's pool  "], endpoint, requests, ideal, lambda url, most, limit: Pooled(None, None, most, limit)
    )
    _engine(["engine              ", "again, from journal "], endpoint, requests, ideal, transport_for)


def _engine(
    names: Sequence[str], endpoint: Endpoint, requests: Sequence[Request], ideal: float, transport: Transport
) -> None:
    """The whole list for each name, in one journal; exits where a request was sent twice."""
    vars(wire)["transport_for"] = transport
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.sqlite") as journal:
        for name in names:
            start, cpu = time.perf_counter(), time.process_time()
            answers = complete(endpoint, requests, journal)
            print(name, ratio(time.perf_counter() - start, time.process_time() - cpu, ideal, len(requests)))
            assert all(isinstance(answer, Answer) for answer in answers)
        calls = journal.spent("").requests
        if calls != len(requests):
            sys.exit(f"{calls:.0f} calls were sent for {len(requests)} requests")


def main() -> None:
    """Warm up, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with serving(str(SERVER), str(SECONDS)) as port:
        for repeat in range(options.repeats + 1):
            count = options.requests if repeat else options.concurrency  # first: imports and connections
            print(f"{'run ' + str(repeat) if repeat else 'warm-up'}: {count} requests, {options.concurrency} at once")
            measure(port, count, options.concurrency)


if __name__ == "__main__":
    main()
