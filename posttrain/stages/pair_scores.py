"""What tells a prompt's answers apart: the judge's scores, its comparisons in both orders, or exact checks.

A judge is not tested with canaries here: the steps before are closed by the recipe's judge, which is, and a chain stops
where it fails.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import ConfigDict, Field

from posttrain.chain.identity import HowNotWhat
from posttrain.chain.stage import InputPath, Metrics, Progress, StageContext
from posttrain.engines.journal import Journal
from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows
from posttrain.stages.asking import Account, Asker
from posttrain.stages.candidates import Answered, Asked
from posttrain.stages.judges import RULE, JudgeChoice, fitted, members
from posttrain.stages.pairing import compare_rows
from posttrain.stages.rubrics import graded_axes, rubric_of, rules_of, told_of

if TYPE_CHECKING:
    from data_gen.pairing import Beats, Candidate
    from eval.asking import Ask
    from eval.canaries import Fit
    from eval.pairwise import Comparison
    from eval.rubric import Rubric
    from eval.verdict import Verdict
    from posttrain.stages.hygiene import Scoring
    from posttrain.stages.pairs import PairsConfig

WON = 0.5  # a win is more than a tie; with a panel it is the mean of its families


class PairsJudge(JudgeChoice):
    """The recipe's judge as far as it scores answers; a step may name another one."""

    model_config = ConfigDict(from_attributes=True)  # taken over from the recipe's `judge:`, which says more

    rubric: InputPath = Path("eval/rubrics/story.md")
    pairwise: Annotated[bool, HowNotWhat] = Field(True, description="of the judge that closes a step; not read here")


class Scored(NamedTuple):
    """Each prompt's answers with their scores, and who beats whom where that is more than a higher score."""

    answers: "list[list[Candidate]]"
    beats: "list[Beats] | None"
    metrics: Metrics


def score(config: "PairsConfig | Scoring", ctx: StageContext, answered: Answered) -> Scored:
    """Scores by `config.by`. A stop by a budget is an error that keeps all answers."""
    if config.judge is None:
        return by_constraints(answered)
    if config.judge.judge == RULE:
        return by_scores(config, answered, rules_of(config.judge).fit, _training(ctx), ctx)
    if config.format == "paired":  # an answer alone makes no pair, so nobody is paid to read it
        several = [answers if len(answers) > 1 else [] for answers in answered.answers]
        answered = answered._replace(answers=several)
    with _asked(config.judge, ctx) as (asks, spent):
        rubric = rubric_of(config.judge)
        if config.by == "pairwise":
            found = by_comparison(config.judge, rubric, asks, answered)
        else:
            found = by_scores(config, answered, fitted(config.judge, rubric, asks), [], ctx)
        return found._replace(metrics={**found.metrics, **spent()})


@contextmanager
def _asked(judge: PairsJudge, ctx: StageContext) -> "Iterator[tuple[list[Ask], Callable[[], Metrics]]]":
    """The models of a judge, ready to be asked, and what they have come to so far."""
    with Journal(ctx.journal) as journal:
        account = Account(journal, ctx)
        found = [Asker(one.endpoint, journal, ctx.run, judge.budget, ctx.progress) for one in members(judge)]
        priced = all(asker.price is not None for asker in found)
        notes = [asker.said for asker in found]
        yield [asker.ask for asker in found], lambda: {**account.spent(priced), "judge_notes": notes}


def _training(ctx: StageContext) -> list[str]:
    """What the model was trained on: told again word for word it is not the model's own."""
    if "training" not in ctx.inputs:
        return []
    return [row["messages"][-1]["content"] for row in read_rows(ctx.inputs["training"].path / "train.jsonl")]


def by_scores(
    config: "PairsConfig | Scoring", answered: Answered, fit: "Fit", training: Sequence[str], ctx: StageContext
) -> Scored:
    """Absolute scores, from 1 to 10: on `axis`, or the mean of all axes, so that none is bought with another."""
    assert config.judge is not None
    rule = config.judge.judge == RULE
    axes = [config.axis] if config.axis is not None else graded_axes(config.judge)
    verdicts = iter(grade(config.judge, answered, fit, training, ctx.progress if rule else None))
    found, lost = [], []
    for answers in answered.answers:
        mine = [next(verdicts) for _ in answers]
        points = [_points(verdict, _heard(mine, axes)) for verdict in mine]
        lost += [_why(verdict, axes) for verdict, point in zip(mine, points, strict=True) if point is None]
        found.append([answer._replace(score=point) for answer, point in zip(answers, points, strict=True)])
    if not rule:  # the rule judge never fails: it has nothing to say where nothing was asked
        check_unscored(sum(map(len, found)), "answers", lost)
    return Scored(found, None, {"unscored": len(lost)})


def grade(
    judge: PairsJudge, answered: Answered, fit: "Fit", training: Sequence[str], progress: Progress | None
) -> "list[dict[str, Verdict]]":
    """The verdicts of all answers; without `progress` all are asked for at once, by a judge that shows its own."""
    from eval.canaries import CHUNK

    rows = [
        {"id": one.id, "text": answer.text, "stopped": answer.stopped}
        for one, answers in zip(answered.asked, answered.answers, strict=True)
        for answer in answers
    ]
    ask = fit(_prompts(judge, answered.asked), rows, training)
    if progress is None:
        return ask(rows)
    found: list[dict[str, Verdict]] = []
    with progress(len(rows), "verdicts") as tick:
        for start in range(0, len(rows), CHUNK):
            found += ask(rows[start : start + CHUNK])
            tick(len(found))
    return found


def _prompts(judge: PairsJudge, asked: Sequence[Asked]) -> dict[str, Row]:
    """What a judge knows of the prompts; their own answers only where the rubric asks for a reference."""
    shown = told_of(judge).reference is not None
    return {one.id: one.row if shown else {**one.row, "reference": None} for one in asked}


def _heard(verdicts: "Sequence[Mapping[str, Verdict]]", axes: Sequence[str]) -> list[str]:
    """The axes on which all of a prompt's answers have a score, those without any left out: others cannot be compared.

    Where nothing was asked, say, there is no score for following it, but for an answer without words.
    """
    found = [[axis for axis in axes if verdict[axis].score is not None] for verdict in verdicts]
    return [axis for axis in axes if all(axis in mine for mine in found if mine)]


def _points(verdict: "Mapping[str, Verdict]", axes: Sequence[str]) -> float | None:
    """The mean of the scores; None without one."""
    scores = [found for axis in axes if (found := verdict[axis].score) is not None]
    return round(fmean(scores), 4) if scores else None


def _why(verdict: "Mapping[str, Verdict]", axes: Sequence[str]) -> str:
    return next((verdict[axis].reason for axis in axes if verdict[axis].score is None), "no axis in common")


def check_unscored(asked: int, what: str, lost: Sequence[str]) -> None:
    """Refuse pairs of what is left when a judge has failed on many: the rest would be another choice of answers.

    `lost` are the reasons.
    """
    from eval.gate import MOST_UNSCORED

    if len(lost) > MOST_UNSCORED * asked:
        raise PosttrainError(
            f"pairs: {len(lost):,} of {asked:,} {what} have no score ({lost[0][:200]}); at most {MOST_UNSCORED:.0%} "
            "may lack one. Look at the judge and run again: what was answered is kept, and only the rest is asked."
        )


def by_comparison(judge: PairsJudge, rubric: "Rubric", asks: "Sequence[Ask]", answered: Answered) -> Scored:
    """Every answer against every other of its prompt, in both orders; the score is the share of comparisons won.

    A tie, and two orders that disagree, count half. Only an answer that won against another one beats it.
    """
    from eval.pairwise import flips

    rows, comparisons = compare(judge, rubric, asks, answered)
    lost = [row["win"]["reason"] for row in rows if row["win"]["score"] is None]
    check_unscored(len(rows), "comparisons", lost)
    wins = iter(rows)
    found, beats = [], []
    for answers in answered.answers:
        won: dict[tuple[int, int], float] = {}
        for first, second in combinations(range(len(answers)), 2):
            result = next(wins)["win"]["score"]
            if result is not None:
                won[first, second], won[second, first] = result, 1 - result
        found.append([answer._replace(score=_share(won, place)) for place, answer in enumerate(answers)])
        beats.append(_beaten(won))
    lean = flips(comparisons)
    figures = {"flip_rate": lean.rate, "first_share": lean.first_share}
    rounded = {name: None if value is None else round(value, 4) for name, value in figures.items()}
    return Scored(found, beats, {"unscored": len(lost), "comparisons": len(rows), **rounded})


def compare(
    judge: PairsJudge, rubric: "Rubric", asks: "Sequence[Ask]", answered: Answered
) -> "tuple[list[Row], list[Comparison]]":
    """All pairs of each prompt's answers, the earlier one as the new one, in the order of `combinations`."""
    sides: tuple[list[Row], list[Row]] = ([], [])
    for one, answers in zip(answered.asked, answered.answers, strict=True):
        for nth, pair in enumerate(combinations(answers, 2)):
            for side, answer in zip(sides, pair, strict=True):
                side.append({"id": one.id, "sample": nth, "text": answer.text})
    return compare_rows(judge, rubric, asks, _prompts(judge, answered.asked), *sides)


def _share(won: Mapping[tuple[int, int], float], place: int) -> float | None:
    own = [result for (one, _), result in won.items() if one == place]
    return round(fmean(own), 4) if own else None


def _beaten(won: Mapping[tuple[int, int], float]) -> "Beats":
    return lambda one, other: won.get((one, other), 0.0) > WON


def by_constraints(answered: Answered) -> Scored:
    """The share of exact checks that an answer meets: it ends by itself, and uses each required word in some form.

    Only what meets them all beats anything.
    """
    from eval.words import missing

    found: list[list[Candidate]] = []
    beats = []
    for one, answers in zip(answered.asked, answered.answers, strict=True):
        words = one.row.get("words") or []
        met = [answer.stopped + len(words) - len(missing(answer.text, words)) for answer in answers]
        shares = [round(count / (1 + len(words)), 4) for count in met]
        found.append([answer._replace(score=share) for answer, share in zip(answers, shares, strict=True)])
        beats.append(_meets_all(shares))
    return Scored(found, beats, {})


def _meets_all(shares: Sequence[float]) -> "Beats":
    return lambda one, other: shares[one] == 1.0
