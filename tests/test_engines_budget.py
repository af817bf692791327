"""A budget stops the call that may pass it; an estimate is an upper bound; a price is known or asked for."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from misbehaving_server import MEMORY, Call, Reply, Server, chat, good, serving, status
from tokenizers import Tokenizer

from posttrain.chain import strict_yaml
from posttrain.engines import journal as journal_module
from posttrain.engines.budget import PRICES, Budget, BudgetExceeded, estimate, price_of
from posttrain.engines.endpoint import Answer, Endpoint, Price, Request
from posttrain.engines.journal import Journal
from posttrain.engines.openai_engine import complete
from posttrain.errors import PosttrainError

PRICE = Price(input=1000.0, output=10_000.0)


@pytest.fixture
def journal() -> Iterator[Journal]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, Journal(Path(folder) / "journal.sqlite") as opened:
        yield opened


def requests(count: int) -> list[Request]:
    return [Request([{"role": "user", "content": f"question {n}"}]) for n in range(count)]


def endpoint(server: Server, **settings: Any) -> Endpoint:
    return Endpoint.model_validate(
        {"model": "m", "base_url": server.url, "max_tokens": 50, "retries": 0, "price": PRICE, **settings}
    )


def uncounted(call: Call) -> Reply:
    """An endpoint that does not say what it used."""
    return Reply(body=json.dumps({**chat("x"), "usage": None}).encode(), delay=0.01)


@pytest.mark.parametrize(
    ("budget", "name"),
    [(Budget(tokens=1000), "tokens"), (Budget(requests=4), "requests"), (Budget(usd=3.0), "usd")],
)
def test_nothing_is_sent_that_may_pass_the_budget(journal: Journal, budget: Budget, name: str) -> None:
    with serving(uncounted) as server:
        where = endpoint(server, concurrency=16)
        (one,) = requests(1)
        bound = estimate(where, [one], None)
        worst = bound.prompt_tokens + bound.completion_tokens
        with pytest.raises(BudgetExceeded, match=rf"budget\.{name} of the run: .* spent of .* raise budget\.{name}"):
            complete(where, requests(30), journal, "the run", budget)
        assert bound.usd is not None
        allowed = {"tokens": 1000 // worst, "requests": 4, "usd": int(3.0 / bound.usd)}[name]
        assert 0 < len(server.calls) == allowed
        results = complete(where, requests(30), journal, "the run", Budget())
        assert all(isinstance(result, Answer) for result in results) and len(server.calls) == 30


def test_without_the_check_the_budget_is_passed(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(journal_module, "exceeds", lambda amount, limit: False)
    with serving(uncounted) as server:
        complete(endpoint(server), requests(30), journal, "the run", Budget(tokens=1000))
        assert len(server.calls) == 30


def test_what_the_endpoint_counted_takes_the_place_of_the_bound(journal: Journal) -> None:
    with serving() as server:  # says 10 tokens a call
        results = complete(endpoint(server), requests(30), journal, "s", Budget(tokens=600))
        assert len(results) == 30
        spent = journal.spent("s")
        assert spent[:2] == (30, 300) and spent.usd == pytest.approx(30 * (7 * 0.001 + 3 * 0.01))


def test_a_second_try_counts(journal: Journal) -> None:
    async def at_once(seconds: float) -> None:
        """In place of waiting."""

    with serving(lambda call: good(call) if call.nth == 2 else status(503)(call)) as server:
        where = endpoint(server, retries=3, concurrency=1)
        with pytest.raises(BudgetExceeded):
            complete(where, requests(5), journal, "s", Budget(requests=7), sleep=at_once)
        assert len(server.calls) == 7


def test_a_budget_is_for_its_scope_and_lasts_over_runs(journal: Journal) -> None:
    with serving() as server:
        where, budget = endpoint(server), Budget(requests=5)
        complete(where, requests(5), journal, "one", budget)
        complete(where, requests(5), journal, "one", budget)  # nothing to send
        with pytest.raises(BudgetExceeded):
            complete(where, requests(6), journal, "one", budget)
        complete(where, requests(6), journal, "two", budget)


def test_a_budget_of_nothing_sends_nothing(journal: Journal) -> None:
    with serving() as server:
        with pytest.raises(BudgetExceeded):
            complete(endpoint(server), requests(2), journal, "s", Budget(requests=0))
        assert server.calls == []


def test_a_dollar_budget_needs_a_price_before_any_call(journal: Journal) -> None:
    unknown = Endpoint(model="no-such-model", base_url="https://models.example.com/v1")
    with pytest.raises(PosttrainError, match=r"no price is known for no-such-model .* Add 'price"):
        complete(unknown, requests(1), journal, budget=Budget(usd=1))
    assert journal.spent("") == (0, 0, 0)
    assert estimate(unknown, requests(1), None).usd is None


def test_prices_come_from_the_recipe_the_network_or_the_file() -> None:
    assert price_of(Endpoint(model="gpt-4o-mini", price=PRICE)) == PRICE
    assert price_of(Endpoint(model="gpt-4o-mini", base_url="http://127.0.0.1:1/v1")) == Price(input=0, output=0)
    undated = price_of(Endpoint(model="gpt-4o-mini"))
    assert undated is not None and undated == price_of(Endpoint(model="gpt-4o-mini-2024-07-18"))
    assert price_of(Endpoint(model="gpt-4o-mini-of-mine")) is None
    assert price_of(Endpoint(model="gpt-4o-mini", base_url="https://models.example.com/v1")) is None


def test_the_price_file_has_a_date_and_two_prices_a_model() -> None:
    data = strict_yaml.read(PRICES)
    assert data["date"].count("-") == 2
    pairs = [pair for models in data["usd_per_million_tokens"].values() for pair in models.values()]
    assert len(pairs) > 20 and all(0 < pair[0] <= pair[1] < 1000 for pair in pairs)


def test_an_estimate_is_an_upper_bound_and_counts_what_is_answered(journal: Journal) -> None:
    with serving() as server:
        where = endpoint(server)
        before = estimate(where, [*requests(20), *requests(20)], journal)
        assert (before.requests, before.answered, before.completion_tokens) == (20, 0, 1000)
        complete(where, requests(15), journal, "s")
        after = estimate(where, requests(20), journal)
        assert (after.requests, after.answered, after.completion_tokens) == (20, 15, 250)
        complete(where, requests(20), journal, "s")
        assert estimate(where, requests(20), journal) == (20, 20, 0, 0, 0.0)
    spent = journal.spent("s")
    assert before.usd is not None and spent.usd <= before.usd
    assert spent.tokens <= before.prompt_tokens + before.completion_tokens


def test_a_token_has_at_least_one_byte() -> None:
    """The bound on the prompt, with a real tokenizer; a quarter of it would be no bound."""
    tokenizer = Tokenizer.from_file(str(Path(__file__).parents[1] / "models" / "storyteller-1m" / "tokenizer.json"))
    shares = []
    for text in ("", "a", "Ünïcödé ☃ 你好 🙂" * 20, '\n\t\x00 \\ "quotes"' * 9):
        request = Request([{"role": "user", "content": text}])
        ids = tokenizer.encode(text).ids
        shares.append(len(ids) / estimate(Endpoint(model="m"), [request], None).prompt_tokens)
    assert 0.25 < max(shares) <= 1
