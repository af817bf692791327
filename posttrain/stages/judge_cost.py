"""What a judge would ask, at most, before anything is asked: for `plan`, `--dry-run` and `eval --dry-run`.

The judge itself is run with an `Ask` that answers nothing and counts, so that no question can be forgotten. Answers
that are not made yet are taken to be as long as the recipe allows.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.chain.stage import Planned, RemoteCalls
from posttrain.engines.budget import estimate
from posttrain.engines.journal import Journal
from posttrain.rows import Row, read_rows
from posttrain.stages.asking import request_of
from posttrain.stages.judges import RULE, JudgeChoice, fitted, members
from posttrain.stages.pairing import compare_steps

if TYPE_CHECKING:
    from eval.asking import Ask, Question, Reply
    from posttrain.stages.judge import JudgeConfig

CHARACTERS = 4  # of a token, about: only for answers that are not made yet
ROW_CHARACTERS = 2_000  # of a row's answer that is not made yet


def judge_calls(planned: Planned) -> RemoteCalls | None:
    """The calls of a judge's node with what the journal knows of them; None for the rule judge, which asks nobody."""
    config: JudgeConfig = planned.config
    return calls_of(config, planned.journal, lambda asks: _ask_everything(config, planned, asks))


def calls_of(
    choice: JudgeChoice, journal: Path, ask_everything: "Callable[[Sequence[Ask]], object]"
) -> RemoteCalls | None:
    """The calls of a judge's models when everything is asked of them; None for the rule judge."""
    if choice.judge == RULE:
        return None
    asked: list[list[Question]] = [[] for _ in members(choice)]
    ask_everything([_counting(questions) for questions in asked])
    calls, answered, tokens, usd = 0, 0, 0, 0.0
    priced = True
    for one, questions in zip(members(choice), asked, strict=True):
        requests = [request_of(question, schema=True) for question in questions]
        found = _estimate(journal, one.endpoint, requests)
        calls, answered = calls + found.requests, answered + found.answered
        tokens += found.prompt_tokens + found.completion_tokens
        usd, priced = usd + (found.usd or 0.0), priced and found.usd is not None
    return RemoteCalls(calls, answered, tokens, usd if priced else None)


def _counting(questions: "list[Question]") -> "Ask":
    from eval.asking import Reply

    def ask(more: "Sequence[Question]") -> "list[Reply]":
        questions.extend(more)
        return [Reply(None, "not asked")] * len(more)

    return ask


def _estimate(path: Path, endpoint: Any, requests: Sequence[Any]) -> Any:
    if not path.is_file():  # a plan leaves nothing behind
        return estimate(endpoint, requests, None)
    with Journal(path) as journal:
        return estimate(endpoint, requests, journal)


def _ask_everything(config: "JudgeConfig", planned: Planned, asks: "Sequence[Ask]") -> None:
    from eval.canaries import judge_blind
    from posttrain.stages.judge import chosen_prompts, shows_references
    from posttrain.stages.rubrics import rubric_of, rules_of

    rubric, chosen = rubric_of(config), chosen_prompts(config)
    prompts, new = _answers(config, planned, "judged")
    judge_blind(
        fitted(config, rubric, asks),
        prompts,
        new,
        [],
        chosen,
        rules_of(config).make(chosen, config.seed),
        seed=config.seed,
        with_references=shows_references(config),
        chunk=None,
    )
    if config.pairwise and config.before is not None:
        compare_steps(config, rubric, asks, prompts, new, _answers(config, planned, "before")[1])


def _answers(config: "JudgeConfig", planned: Planned, field: str) -> tuple[Mapping[str, Row], list[Row]]:
    """Prompts and answers as the judge will see them; stand-ins of the greatest length where they are not made."""
    from posttrain.stages.judge import ROWS_JUDGED, judged_rows

    if field in planned.made:
        return judged_rows(config, planned.made[field])
    settings, prompts = planned.awaited[field], read_rows(config.prompts)
    if settings.kind == "samples":
        text = "x" * CHARACTERS * settings.max_new_tokens
        rows = [
            {"id": row["id"], "sample": number, "text": f"{text}{number} {field}", "stopped": True}
            for row in prompts[: settings.limit]
            for number in range(settings.samples)
        ]
        return {row["id"]: row for row in prompts}, rows
    rows = [
        {"id": f"row {number}", "sample": 0, "text": "x" * ROW_CHARACTERS, "stopped": True}
        for number in range(ROWS_JUDGED)
    ]
    return {row["id"]: {"id": row["id"], "prompt": f"{row['id']} " + "x" * 200} for row in rows}, rows
