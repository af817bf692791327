"""What remote calls cost: before they are sent (at most), after (as the endpoint counts), and when to stop.

A call's upper bound: a token has at least one byte, so the prompt has no more tokens than its request has bytes, and
a margin for what a chat template adds; the completion has at most `max_tokens`.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import Field

from posttrain.chain import strict_yaml
from posttrain.chain.stage import Config
from posttrain.engines.endpoint import Answer, Call, Endpoint, Price, Request, call_of, is_local, key_of
from posttrain.engines.journal import Amount, Journal, exceeds
from posttrain.errors import PosttrainError

PRICES = Path(__file__).with_name("prices.yaml")
TEMPLATE = 64  # tokens that a chat template may add to the request's own bytes
DATED = re.compile(r"-(\d{4}-?\d{2}-?\d{2})$")


class Budget(Config):
    """A hard stop before the call that would pass it. Counted over a scope: every run and process of it together."""

    usd: float | None = Field(None, ge=0)
    tokens: int | None = Field(None, ge=0, description="prompt and completion together")
    requests: int | None = Field(None, ge=0, description="calls sent, second tries too")


class BudgetExceeded(PosttrainError):
    """The next call might pass the budget. What was answered is in the journal."""


class Estimate(NamedTuple):
    """What a list of requests would cost at most. `usd` is None where no price is known."""

    requests: int
    answered: int  # in the journal, for nothing
    prompt_tokens: int  # of the rest, upper bound
    completion_tokens: int
    usd: float | None


def price_of(endpoint: Endpoint) -> Price | None:
    """The recipe's price, else nothing for an endpoint in this network, else the file's, else None."""
    if endpoint.price is not None or is_local(endpoint.base_url):
        return endpoint.price or Price(input=0, output=0)
    known: dict[str, list[float]] = strict_yaml.read(PRICES)["usd_per_million_tokens"].get(
        urlsplit(endpoint.base_url).hostname, {}
    )
    pair = known.get(endpoint.model) or known.get(DATED.sub("", endpoint.model))
    return Price(input=pair[0], output=pair[1]) if pair else None


def limit_of(budget: Budget | None, endpoint: Endpoint) -> Amount | None:
    """The budget as an amount, without limit where it says nothing; a dollar budget needs a price."""
    if budget is None:
        return None
    if budget.usd is not None and price_of(endpoint) is None:
        raise PosttrainError(
            f"budget.usd: no price is known for {endpoint.model} at {endpoint.base_url}; a budget in dollars needs "
            "one. Add 'price: {input: , output: }' (USD per million tokens) to the endpoint, or budget tokens instead."
        )
    return Amount(*(math.inf if part is None else part for part in (budget.requests, budget.tokens, budget.usd)))


def usd(price: Price | None, prompt_tokens: int, completion_tokens: int) -> float:
    """Dollars; 0 where there is no price."""
    return 0.0 if price is None else (prompt_tokens * price.input + completion_tokens * price.output) / 1e6


def worst_case(call: Call) -> tuple[int, int]:
    """The most prompt and completion tokens of one call."""
    return len(call.content) + TEMPLATE, call.max_tokens


def worst_amount(call: Call, price: Price | None) -> Amount:
    """The most that one call may cost."""
    prompt, completion = worst_case(call)
    return Amount(1, prompt + completion, usd(price, prompt, completion))


def cost_of(answer: Answer, call: Call, price: Price | None) -> Amount:
    """What an answered call cost; its upper bound where the endpoint does not count."""
    prompt, completion = answer.usage
    if prompt is None or completion is None:
        most = worst_case(call)
        prompt, completion = most[0] if prompt is None else prompt, most[1] if completion is None else completion
    return Amount(1, prompt + completion, usd(price, prompt, completion))


def estimate(endpoint: Endpoint, requests: Sequence[Request], journal: Journal | None) -> Estimate:
    """What would be sent, if every call succeeds at once; no key is needed and nothing is sent."""
    different = {key_of(endpoint, request): request for request in requests}
    answered = journal.answers(list(different)) if journal else {}
    tokens = [worst_case(call_of(endpoint, request)) for key, request in different.items() if key not in answered]
    prompt, completion = sum(pair[0] for pair in tokens), sum(pair[1] for pair in tokens)
    price = price_of(endpoint)
    cost = None if price is None else usd(price, prompt, completion)
    return Estimate(len(different), len(answered), prompt, completion, cost)


def exceeded(scope: str, spent: Amount, next_call: Amount, limit: Amount, journal: Path) -> BudgetExceeded:
    """The error that names what is spent, what was next, and how to go on."""
    words = ("{:,.0f} calls", "{:,.0f} tokens", "${:,.4f}")
    parts = zip(Amount._fields, words, limit, spent, next_call, strict=True)
    name, word, most, so_far, more = next(part for part in parts if exceeds(part[3] + part[4], part[2]))
    return BudgetExceeded(
        f"budget.{name} of {scope or 'this run'}: {word.format(so_far)} spent of {word.format(most)}, and the next "
        f"call may cost {word.format(more)}; a call that may pass the budget is not sent. All answers are kept in "
        f"{journal}: raise budget.{name} and run again, and only what is missing is asked."
    )
