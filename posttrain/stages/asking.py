"""A judge's questions, put to an endpoint: through the journal, within the budget, and no failure raises.

`eval` knows questions and replies, `engines` requests and answers; this is where the two meet.
"""

import json
from collections.abc import Sequence

from eval.asking import Question, Reply
from posttrain.chain.stage import Metrics, Progress, StageContext
from posttrain.engines.budget import Budget, price_of
from posttrain.engines.endpoint import Answer, Endpoint, Failure, Request
from posttrain.engines.journal import Amount, Journal
from posttrain.engines.openai_engine import complete
from posttrain.engines.probe import json_schema, probe
from posttrain.rows import write_text


class Asker:
    """One endpoint. `ask` is an `eval.asking.Ask`; `said` tells what the endpoint can do.

    Making one asks the endpoint for what it can do, unless the journal knows.
    """

    def __init__(
        self, endpoint: Endpoint, journal: Journal, scope: str, budget: Budget | None, progress: Progress
    ) -> None:
        found = probe(endpoint, journal, scope, budget)
        self.endpoint, self.schema, self.said = found.endpoint, found.schema, found.said
        self.journal, self.scope, self.budget, self.progress = journal, scope, budget, progress
        self.price = price_of(endpoint)

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """A reply a question, in their order; equal questions are asked once."""
        return [reply_of(answer) for answer in self.complete(self.requests(questions))]

    def requests(self, questions: Sequence[Question]) -> list[Request]:
        """The requests of these questions, bound by their schemas where the endpoint takes one."""
        return [request_of(question, self.schema) for question in questions]

    def complete(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """Answers through the journal, with a bar."""
        different = {(*(message["content"] for message in request.messages), request.nth) for request in requests}
        with self.progress(len(different), "calls") as tick:
            return complete(self.endpoint, requests, self.journal, self.scope, self.budget, tick)


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
