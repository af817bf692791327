"""Messages in, completions out, over any OpenAI-compatible endpoint; every call goes through the journal.

A request is looked up, claimed, sent, and its answer is on the disk before it is used. Workers outnumber the calls in
flight, so that claims and commits of some run while others wait for the endpoint, and one commit serves many.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

from posttrain.engines.budget import Budget, cost_of, exceeded, limit_of, price_of, worst_amount
from posttrain.engines.endpoint import (
    Answer,
    Call,
    Endpoint,
    Failure,
    Price,
    Request,
    api_key,
    call_of,
    key_of,
    reply_tokens,
)
from posttrain.engines.journal import Amount, Claim, Journal, Outcome, Settlement
from posttrain.engines.reply import Trouble, byte_limit, dump_answer, load_answer
from posttrain.errors import PosttrainError

if TYPE_CHECKING:
    from posttrain.engines.wire import Wire

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between tries: full jitter below a doubling bound
POLL = 0.05, 1.0  # seconds between looks at what another process is doing
PART = 100  # requests that are looked up at once
HOPELESS = 32  # failures without one answer, after which the rest is not tried


class Note(Protocol):
    """Told how many requests are done, and a short word on them."""

    def __call__(self, done: int, note: str = "") -> None: ...


class Job(NamedTuple):
    """One request that is not answered yet."""

    key: str
    call: Call


class Run(NamedTuple):
    """What all jobs of one `complete` share."""

    endpoint: Endpoint
    journal: Journal
    scope: str
    limit: Amount | None
    price: Price | None
    sleep: Callable[[float], Awaitable[None]]


def complete(
    endpoint: Endpoint,
    requests: Sequence[Request],
    journal: Journal,
    scope: str = "",
    budget: Budget | None = None,
    tick: Note | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[Answer | Failure]:
    """Answers in the order of the requests; equal requests are asked once, answered ones never again.

    `scope` names what the budget is counted over (a run or step). Raises `BudgetExceeded` before a call that may pass
    it, and PosttrainError where no request can succeed (a wrong key, an unknown model); answers are kept either way.
    """
    limit, price = limit_of(budget, endpoint), price_of(endpoint)
    run = Run(endpoint, journal, scope, limit, price, sleep)
    keys: list[str] = []
    found: dict[str, Answer | Failure] = {}
    jobs = _jobs(run, requests, keys, found, tick)
    if (first := next(jobs, None)) is not None:
        most = byte_limit(max(reply_tokens(endpoint, request) for request in requests), endpoint.top_logprobs)
        asyncio.run(_ask_all(run, chain([first], jobs), found, tick, most))
    return [found[key] for key in keys]


def _jobs(
    run: Run, requests: Sequence[Request], keys: list[str], found: dict[str, Answer | Failure], tick: Note | None
) -> Iterator[Job]:
    """What the journal has no answer to, once each; fills `keys` and `found`. A part at a time, so that calls are on
    their way while later requests are looked up."""
    asked: set[str] = set()
    for start in range(0, len(requests), PART):
        part = {place: key_of(run.endpoint, requests[place]) for place in range(len(requests))[start : start + PART]}
        keys += part.values()
        known = run.journal.answers([key for key in dict.fromkeys(part.values()) if key not in found])
        found.update((key, load_answer(text)) for key, text in known.items())
        if tick and known:
            tick(len(found), f"{len(known)} from the journal")
        for place, key in part.items():
            if key not in found and key not in asked:
                asked.add(key)
                yield Job(key, call_of(run.endpoint, requests[place]))


async def _ask_all(
    run: Run, jobs: Iterator[Job], found: dict[str, Answer | Failure], tick: Note | None, most: int
) -> None:
    from posttrain.engines.wire import open_wire

    key, clerk = api_key(run.endpoint), _Clerk(run.journal)
    async with open_wire(run.endpoint, key, most) as wire:
        crew = _Crew(run, wire, clerk, jobs, found, tick)
        try:
            await crew.work()
        finally:
            clerk.close()
    if crew.stop:
        raise crew.stop


class _Clerk:
    """Many small writes in few transactions: while one is flushed to the disk, the next ones gather."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.thread = journal, ThreadPoolExecutor(1, "journal")
        self.waiting: list[tuple[Settlement | Claim, asyncio.Future[Outcome]]] = []
        self.batch: list[tuple[Settlement | Claim, asyncio.Future[Outcome]]] = []
        self.flushing: asyncio.Task[None] | None = None
        self.in_flight: set[int] = set()

    async def write(self, entry: Settlement | Claim) -> Outcome:
        """The outcome of an entry, once it is on the disk."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.waiting.append((entry, future))
        if self.flushing is None or self.flushing.done():
            self.flushing = asyncio.create_task(self._flush())
        return await future

    def close(self) -> None:
        """What an interruption left: answers that came are kept, other calls are no claims but may have been billed."""
        self.thread.shutdown()
        came = [entry for entry, _ in (*self.batch, *self.waiting) if isinstance(entry, Settlement)]
        self.journal.write([*came, *(Settlement(call, "lost") for call in self.in_flight)])

    def _write(self) -> list[Outcome]:
        """In the thread, where no interruption comes between a claim and the note of it."""
        outcomes = self.journal.write([entry for entry, _ in self.batch])
        for (entry, _), outcome in zip(self.batch, outcomes, strict=True):
            if isinstance(entry, Settlement):
                self.in_flight.discard(entry.call)
            elif outcome.state == "ours":
                self.in_flight.add(outcome.call)
        return outcomes

    async def _flush(self) -> None:
        while self.waiting:
            self.batch = sorted(self.waiting, key=lambda pair: isinstance(pair[0], Claim))  # what is settled, first
            self.waiting = []
            outcomes: Sequence[Outcome | BaseException]
            try:
                outcomes = await asyncio.get_running_loop().run_in_executor(self.thread, self._write)
            except asyncio.CancelledError:
                raise  # `close` writes what is left
            except BaseException as error:  # handed on to everyone who waits, never swallowed
                outcomes = [error] * len(self.batch)
            for (_, future), outcome in zip(self.batch, outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
            self.batch = []


class _Crew:
    """Workers over one list of jobs. `stop` is why no further call is sent; calls in flight are waited for."""

    def __init__(
        self,
        run: Run,
        wire: "Wire",
        clerk: _Clerk,
        jobs: Iterator[Job],
        found: dict[str, Answer | Failure],
        tick: Note | None,
    ) -> None:
        self.run, self.wire, self.clerk, self.found, self.tick = run, wire, clerk, found, tick
        self.todo = jobs
        self.slots = asyncio.Semaphore(run.endpoint.concurrency)
        self.workers = run.endpoint.concurrency * 3 // 2 + 1
        self.stop: PosttrainError | None = None
        self.stopped, self.news = asyncio.Event(), asyncio.Event()
        self.calm = 0.0  # no call before this moment: the endpoint asked for a pause
        self.answered, self.failed = len(found), 0

    async def work(self) -> None:
        """Ask everything, or stop."""
        await asyncio.gather(*(self._worker() for _ in range(self.workers)))

    async def _worker(self) -> None:
        try:
            for job in self.todo:
                self.found[job.key] = result = await self._ask(job)
                self._count(result)
        except PosttrainError as error:
            self.stop = self.stop or error
            self.stopped.set()

    def _count(self, result: Answer | Failure) -> None:
        self.answered += isinstance(result, Answer)
        self.failed += isinstance(result, Failure)
        if self.tick:
            self.tick(len(self.found), f"{self.failed} failed" if self.failed else "")
        if isinstance(result, Failure) and not self.answered and self.failed >= HOPELESS:
            raise PosttrainError(
                f"{self.run.endpoint.base_url}: {self.failed} requests failed and none was answered; the last one: "
                f"{result.reason}. Check the endpoint and run again."
            )

    async def _ask(self, job: Job) -> Answer | Failure:
        """One request, tried until it is answered, refused, or out of tries."""
        tries = self.run.endpoint.retries + 1
        trouble = None
        for attempt in range(tries):
            result = await self._try(job)
            if isinstance(result, Answer):
                return result
            trouble = result
            if trouble.stops:
                raise PosttrainError(f"{trouble.reason}.")
            if not trouble.again:
                return Failure(trouble.reason, trouble.status)
            if attempt + 1 < tries:
                jitter = random.Random(f"{self.run.endpoint.seed} {job.key} {attempt}")
                bound = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
                await self._pause((trouble.wait or 0.0) + jitter.uniform(0, bound))
        assert trouble is not None
        return Failure(f"{trouble.reason} ({tries} tries)", trouble.status)

    async def _try(self, job: Job) -> Answer | Trouble:
        """Claim, send, settle: the answer is returned when the journal has it."""
        await self._pause(self.calm - time.monotonic())
        outcome = await self._claim(job)
        if outcome.state == "answered":
            return load_answer(outcome.answer)
        async with self.slots:
            if self.stop:
                await self._settle(Settlement(outcome.call, "unsent"))
                raise self.stop
            started = time.monotonic()
            reply = await self.wire.post(job.call.content)
        seconds = time.monotonic() - started
        if isinstance(reply, Trouble):
            if reply.wait:
                self.calm = max(self.calm, time.monotonic() + reply.wait)
            await self._settle(Settlement(outcome.call, "lost" if reply.charged else "refused", seconds=seconds))
            return reply
        cost = cost_of(reply, job.call, self.run.price)
        done = Settlement(outcome.call, "answered", dump_answer(reply), reply.model, *reply.usage, cost, seconds)
        return load_answer((await self._settle(done)).answer)

    async def _settle(self, done: Settlement) -> Outcome:
        outcome = await self.clerk.write(done)
        self.news.set()  # who waits for the budget or for an equal request looks again
        self.news = asyncio.Event()
        return outcome

    async def _claim(self, job: Job) -> Outcome:
        """The right to send this request, or its answer where another process had it; waits while it has not."""
        run, wait, worst = self.run, POLL[0], worst_amount(job.call, self.run.price)
        claim = Claim(job.key, run.scope, run.endpoint.base_url, worst, run.limit, 2 * run.endpoint.deadline + 60)
        while True:
            if self.stop:
                raise self.stop
            outcome = await self.clerk.write(claim)
            if outcome.state in ("ours", "answered"):
                return outcome
            if outcome.state == "over":
                assert run.limit is not None
                raise exceeded(run.scope, outcome.spent, worst, run.limit, run.journal.path)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.news.wait(), wait)
            wait = min(wait * 2, POLL[1])

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless the crew stops: then its reason is raised."""
        if seconds > 0 and not self.stop:
            sleeping = asyncio.ensure_future(self.run.sleep(seconds))
            stopped = asyncio.ensure_future(self.stopped.wait())
            await asyncio.wait((sleeping, stopped), return_when=asyncio.FIRST_COMPLETED)
            sleeping.cancel()
            stopped.cancel()
        if self.stop:
            raise self.stop
