"""A judge's questions, put to an endpoint: through the journal, within the budget, and no failure raises.

`eval` knows questions and replies, `engines` requests and answers; this is where the two meet.
"""

import json
from collections.abc import Sequence

from eval.asking import Question, Reply
from posttrain.chain.stage import Metrics, Progress, StageContext
from posttrain.engines.budget import Budget, cost_of, price_of
from posttrain.engines.endpoint import Answer, Endpoint, Failure, Request, body_of, key_of
from posttrain.engines.journal import Amount, Journal
from posttrain.engines.openai_engine import complete
from posttrain.engines.probe import json_schema, probe
from posttrain.rows import write_text


class Asker:
    """One endpoint. `ask` is an `eval.asking.Ask`; `said` tells what the endpoint can do.

    `asked` and `known` count different questions, and those of them that the journal answered; `usd` is what the
    answers cost when they were made, None where no price is known. Making one asks the endpoint for what it can do.
    """

    def __init__(
        self, endpoint: Endpoint, journal: Journal, scope: str, budget: Budget | None, progress: Progress
    ) -> None:
        found = probe(endpoint, journal, scope, budget)
        self.endpoint, self.schema, self.said = found.endpoint, found.schema, found.said
        self.journal, self.scope, self.budget, self.progress = journal, scope, budget, progress
        self.price = price_of(endpoint)
        self.asked, self.known = 0, 0
        self.usd: float | None = None if self.price is None else 0.0

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """A reply a question, in their order; equal questions are asked once."""
        requests = [request_of(question, self.schema) for question in questions]
        keys = [key_of(self.endpoint, request) for request in requests]
        self.asked += len(set(keys))
        self.known += len(self.journal.answers(list(set(keys))))
        with self.progress(len(set(keys)), "calls") as tick:
            found = complete(self.endpoint, requests, self.journal, self.scope, self.budget, tick)
        if self.usd is not None:
            once = {
                key: self._cost(request, answer) for key, request, answer in zip(keys, requests, found, strict=True)
            }
            self.usd += sum(once.values())
        return [reply_of(answer) for answer in found]

    def _cost(self, request: Request, answer: Answer | Failure) -> float:
        return cost_of(answer, body_of(self.endpoint, request), self.price).usd if isinstance(answer, Answer) else 0.0


class Account:
    """What the calls of a step came to, also where a killed run had made some of them before.

    `ctx.work` remembers what the run's scope had spent when the step began.
    """

    def __init__(self, journal: Journal, ctx: StageContext) -> None:
        self.journal, self.scope = journal, ctx.run
        path = ctx.work / "spent-before.json"
        if not path.is_file():
            write_text(path, json.dumps(journal.spent(ctx.run)))
        self.before = Amount(*json.loads(path.read_text(encoding="utf-8")))

    def spent(self, priced: bool) -> Metrics:
        """Calls sent, tokens and dollars (None where a price is not known); answers from the journal cost nothing."""
        calls, tokens, usd = (now - then for now, then in zip(self.journal.spent(self.scope), self.before, strict=True))
        return {"remote_calls": int(calls), "remote_tokens": int(tokens), "cost_usd": round(usd, 6) if priced else None}


def request_of(question: Question, schema: bool) -> Request:
    """The request of a question, bound by its schema where the endpoint takes one."""
    wanted = json_schema("verdict", dict(question.schema)) if schema and question.schema else None
    return Request(question.messages, question.max_tokens, wanted, question.nth)


def reply_of(answer: Answer | Failure) -> Reply:
    """What a judge reads: the text with each token's alternatives, the token itself first; or why there is none."""
    if isinstance(answer, Failure):
        return Reply(None, answer.reason)
    tokens = answer.logprobs and [
        [(token.token, token.logprob), *(pair for pair in token.top if pair[0] != token.token)]
        for token in answer.logprobs
    ]
    return Reply(answer.text, finish_reason=answer.finish_reason, logprobs=tokens or None)
