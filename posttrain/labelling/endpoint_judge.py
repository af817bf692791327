"""A language model behind an OpenAI-compatible endpoint as a judge of labelled rows.

Pairs are asked in both orders (eval/pairwise.py), single answers on every axis of the rubric in one call
(eval/llm_judge.py). Every call goes through the journal: a second run asks nothing again.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from eval.asking import Ask, Question, Reply
from eval.grading_prompt import brief
from eval.labels import TIE, A, B, Labels, PairLabel, ScoreLabel
from eval.llm_judge import llm_judge
from eval.pairwise import Comparison, Outcome, Side, compare
from eval.ranking import Spent
from eval.recorded import PairVerdict, Pick, ScoreVerdict, Verdicts
from eval.rubric import Rubric, RubricError, load_rubric
from eval.verdict import scores
from posttrain.chain.stage import Progress
from posttrain.engines.budget import Budget, cost_of, price_of
from posttrain.engines.endpoint import Answer, Endpoint, Failure, Request, api_key, call_of, key_of
from posttrain.engines.journal import Journal
from posttrain.errors import PosttrainError
from posttrain.labelling.texts import read_text
from posttrain.stages.asking import Asker, reply_of

LOGPROBS = 5  # alternatives a token, for expected grades; some servers allow no more
WINNER: dict[Outcome, int] = {"new": A, "old": B, "tie": TIE}  # a is asked about as the new answer


class Remote(NamedTuple):
    """Where endpoints are, what they are told, and what they may cost."""

    journal: Path
    rubric: Path
    progress: Callable[[str], Progress]
    base_url: str | None = None
    api_key_env: str | None = None
    usd: float | None = None


class Asked(NamedTuple):
    """An endpoint's verdicts, what they took, and what must be known to read them."""

    verdicts: Verdicts
    spent: Spent
    note: str


def endpoint_judge(model: str, labels: Labels, remote: Remote) -> Callable[[], Asked]:
    """The judge, with key, address and rubric found to be right; calling it asks the endpoint."""
    pairs = isinstance(labels[0], PairLabel)
    settings = {"model": model, "base_url": remote.base_url, "api_key_env": remote.api_key_env}
    endpoint = Endpoint.model_validate(settings | {"top_logprobs": 0 if pairs else LOGPROBS})
    api_key(endpoint)  # a missing one is said now
    if remote.usd is not None and price_of(endpoint) is None:
        raise PosttrainError(
            f"--budget-usd: no price is known for {model} at {endpoint.base_url}; a budget in dollars needs one. "
            "Leave it out, or choose a model of engines/prices.yaml."
        )
    rubric = _rubric(remote.rubric)

    def judge() -> Asked:
        budget = None if remote.usd is None else Budget(usd=remote.usd)
        scope = f"calibrate {endpoint.model} {endpoint.base_url}"
        with Journal(remote.journal) as journal:
            asker = _CountingAsker(endpoint, journal, scope, budget, remote.progress(f"openai:{model}"))
            started = time.monotonic()
            verdicts = _on_pairs(asker.ask, rubric, labels) if pairs else _on_answers(asker.ask, rubric, labels)
            seconds = time.monotonic() - started
        note = f"openai:{model}: rubric {remote.rubric.name}; {asker.said}."
        if asker.known:
            note += f" {asker.known} of {asker.asked} answers were in the journal, so no rate is given."
        return Asked(verdicts, Spent(None if asker.known else seconds, asker.usd), note)

    return judge


class _CountingAsker(Asker):
    """Counts different questions (`asked`), and those of them that the journal answered (`known`).

    `usd` is what the answers cost when they were made, None where no price is known.
    """

    asked, known = 0, 0
    usd: float | None = 0.0

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        requests = self.requests(questions)
        keys = [key_of(self.endpoint, request) for request in requests]
        self.asked += len(set(keys))
        self.known += len(self.journal.answers(list(set(keys))))
        found = self.complete(requests)
        asked = zip(keys, requests, found, strict=True)
        once = {key: self._cost(request, answer) for key, request, answer in asked}
        self.usd = None if self.price is None or self.usd is None else self.usd + sum(once.values())
        return [reply_of(answer) for answer in found]

    def _cost(self, request: Request, answer: Answer | Failure) -> float:
        return cost_of(answer, call_of(self.endpoint, request), self.price).usd if isinstance(answer, Answer) else 0.0


def _rubric(path: Path) -> Rubric:
    try:
        rubric = load_rubric(read_text(path, "a rubric"))
        brief(rubric)
    except RubricError as error:
        raise PosttrainError(f"{path}: {error}") from None
    return rubric


def _on_pairs(ask: Ask, rubric: Rubric, labels: Labels) -> list[PairVerdict]:
    pairs = [label for label in labels if isinstance(label, PairLabel)]
    prompts = {label.id: {"prompt": label.prompt} for label in pairs}
    a = [{"id": label.id, "text": label.a} for label in pairs]
    b = [{"id": label.id, "text": label.b} for label in pairs]
    return [_pair_verdict(found) for found in compare(ask, rubric, prompts, a, b)]


def _pair_verdict(found: Comparison) -> PairVerdict:
    return PairVerdict(found.id, _pick(found.new_first), _pick(found.old_first))


def _pick(side: Side) -> Pick:
    return Pick(None if side.outcome is None else WINNER[side.outcome], side.reason)


def _on_answers(ask: Ask, rubric: Rubric, labels: Labels) -> list[ScoreVerdict]:
    """The mean of the axes that are scores; lettered choices are on no common scale."""
    answers = [label for label in labels if isinstance(label, ScoreLabel)]
    prompts = {label.id: {"prompt": label.prompt} for label in answers}
    graded = [axis for axis in rubric.axes if axis not in brief(rubric).choices]
    judged = llm_judge(ask, rubric, prompts)([{"id": label.id, "text": label.text} for label in answers])
    made = []
    for label, axes in zip(answers, judged, strict=True):
        found = scores(axes[axis] for axis in graded)
        whole = len(found) == len(graded)
        reason = "; ".join(axes[axis].reason for axis in graded)
        made.append(ScoreVerdict(label.id, sum(found) / len(found) if whole and found else None, reason))
    return made
