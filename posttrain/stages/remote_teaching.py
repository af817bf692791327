"""A teacher behind an endpoint: asked through the journal, so that no answer is paid for twice.

A call that fails for a while is asked again in rounds; one that never comes through stops the step, because rows that
are missing by accident would make another data set. What the endpoint refuses for good is dropped and counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from posttrain.chain.identity import digest_of_json
from posttrain.chain.references import ENDPOINT
from posttrain.chain.stage import StageContext
from posttrain.engines.budget import Budget, cost_of
from posttrain.engines.endpoint import Answer, Endpoint, Failure, Request, call_of
from posttrain.engines.journal import Journal
from posttrain.engines.probe import json_schema
from posttrain.engines.reply import AGAIN
from posttrain.errors import PosttrainError
from posttrain.stages.asking import Asker
from posttrain.stages.teaching import Replies, Told

REFUSED = "refused by the endpoint"
ROUNDS = 3  # of second tries, each with all tries of the endpoint's settings
CUTS = ("length", "content_filter")


class Question(NamedTuple):
    """What is asked for a row, and the JSON schema of its answer where there is one."""

    messages: Sequence[Mapping[str, str]]
    schema: Mapping[str, Any] | None


def endpoint_answers(
    endpoint: Endpoint, asked: Mapping[str, Question], journal: Journal, budget: Budget | None, ctx: StageContext
) -> Replies:
    """Answers to `asked`, questions by row id. Raises PosttrainError where some never came; the others are kept."""
    from posttrain.lm.tokenizer import CHAT_TOKENS

    asker = Asker(endpoint, journal, ctx.run, budget, ctx.progress)
    requests = requests_of(list(asked.values()), asker.schema)
    found = _insist(asker, requests, ctx)
    replies = {key: _told(asker, request, answer) for key, request, answer in zip(asked, requests, found, strict=True)}
    tokens = sum(told.completion.tokens for told in replies.values() if told.completion)
    return Replies(f"{ENDPOINT}{endpoint.model}", replies, tokens, None, frozenset(CHAT_TOKENS))


def requests_of(questions: Sequence[Question], schema: bool) -> list[Request]:
    """One request each; equal ones are told apart as samples of one prompt, in their order."""
    seen: dict[str, int] = {}
    requests = []
    for question in questions:
        key = digest_of_json([dict(message) for message in question.messages])
        wanted = json_schema("row", dict(question.schema)) if schema and question.schema else None
        requests.append(Request(question.messages, response_format=wanted, nth=seen.setdefault(key, 0)))
        seen[key] += 1
    return requests


def _insist(asker: Asker, requests: Sequence[Request], ctx: StageContext) -> list[Answer | Failure]:
    found = asker.complete(requests)
    for _ in range(ROUNDS):
        again = [place for place, answer in enumerate(found) if isinstance(answer, Failure) and not _for_good(answer)]
        if not again:
            return found
        ctx.say(f"{len(again)} calls failed ({_reason(found[again[0]])}); they are asked again")
        for place, answer in zip(again, asker.complete([requests[place] for place in again]), strict=True):
            found[place] = answer
    lost = [answer for answer in found if isinstance(answer, Failure) and not _for_good(answer)]
    if lost:
        raise PosttrainError(
            f"{asker.endpoint.base_url}: {len(lost):,} of {len(requests):,} calls were never answered "
            f"({lost[0].reason}); all are needed. Look at the endpoint and run again: only these are asked."
        )
    return found


def _for_good(failure: Failure) -> bool:
    """The endpoint does not take this request, now or later: its content, mostly."""
    return failure.status is not None and failure.status < 500 and failure.status not in AGAIN


def _reason(answer: Answer | Failure) -> str:
    return answer.reason if isinstance(answer, Failure) else ""


def _told(asker: Asker, request: Request, answer: Answer | Failure) -> Told:
    from posttrain.engines.transformers_engine import Completion

    asked = digest_of_json([dict(message) for message in request.messages])
    if isinstance(answer, Failure):
        return Told(None, asked, fault=REFUSED)
    cost = cost_of(answer, call_of(asker.endpoint, request), asker.price)
    completion = Completion(answer.text, answer.finish_reason not in CUTS, answer.usage.completion_tokens or 0)
    return Told(completion, asked, int(cost.tokens), round(cost.usd, 8) if asker.price is not None else None)
