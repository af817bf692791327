"""How often one step wins over another: by the people who voted, by a judge, and by the judge corrected by the people.

People are right and vote on few prompts; a judge judges all pairs and leans. Its own interval knows nothing of that and
may miss the truth for certain, however many pairs there are. Its error where people voted, taken off what it says
everywhere, does not lean (prediction-powered inference, `eval.ppi`), where the prompts with a vote are a random sample.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eval.ppi import corrected_mean
from eval.recorded import PairVerdict
from eval.statistics import Interval, prompt_means
from eval.win_rate import win_rate
from posttrain.labelling.run_votes import WORTH, RunVotes

TIE = 0.5
# A judge that agreed with people on ten of ten prompts need not be right on the eleventh. So two prompts, on which it
# errs one way and the other, are added to those with a vote, as Bonett and Price (2012) do for differences of paired
# proportions. Without them intervals from few votes are far too narrow (tests/test_labelling_correcting.py).
ADDED_PEOPLE, ADDED_JUDGE = (1.0, 0.0), (0.0, 1.0)


class Rate(NamedTuple):
    """Win rates of step a, 0 to 1, with intervals over prompts: people's, one judge's alone, and the corrected one.

    `tuning` is how far the judge was trusted, 0 to 1. `labels_alone` is how many prompts with a vote would give about
    the corrected interval's width without a judge, `labels_saved` how many fewer there were; None where the correction
    did not narrow it. `unscored` counts verdicts that are none: the judge alone leaves them out, and the correction,
    which may take them for anything as long as it does so everywhere, takes them for ties. A judge that did not judge
    all pairs (`judged`) has neither rate; where fewer than two prompts have no vote there is nothing to correct.
    """

    judge: str
    judged: int
    unscored: int
    people: Interval
    judge_alone: Interval | None
    corrected: Interval | None
    tuning: float | None
    labels_alone: int | None
    labels_saved: int | None


class Corrected(NamedTuple):
    """The corrected rate, how far the judge was trusted, and the prompts with a vote that would do as well alone."""

    interval: Interval
    tuning: float
    labels_alone: int | None


def win_rates(
    votes: RunVotes, verdicts_by_judge: Mapping[str, Sequence[PairVerdict]], *, level: float = 0.95
) -> list[Rate]:
    """A row for each judge, from its verdicts on the run's pairs, matched by id; in the order of the judges."""
    values = list(_by_prompt(votes, votes.people).items())
    people = _with_equals(votes, win_rate([rate for _, rate in values], [prompt for prompt, _ in values], level=level))
    return [_rate(votes, judge, verdicts, people, level) for judge, verdicts in verdicts_by_judge.items()]


def _rate(votes: RunVotes, judge: str, verdicts: Sequence[PairVerdict], people: Interval, level: float) -> Rate:
    picks = {verdict.id: verdict.settled.winner for verdict in verdicts}
    scored = {key: WORTH[pick] for key, pick in picks.items() if pick is not None}
    count, unscored = len(picks), len(picks) - len(scored)
    if count < len(votes.pairs):
        return Rate(judge, count, unscored, people, None, None, None, None, None)
    alone = _alone(votes, scored, level) if scored else None
    found = _corrected(votes, {key: scored.get(key, TIE) for key in picks}, people, level)
    if found is None:
        return Rate(judge, count, unscored, people, alone, None, None, None, None)
    saved = None if found.labels_alone is None else found.labels_alone - len(votes.labelled)
    return Rate(judge, count, unscored, people, alone, found.interval, found.tuning, found.labels_alone, saved)


def _alone(votes: RunVotes, scored: Mapping[str, float], level: float) -> Interval:
    """The judge's rate over all pairs that it scored, and those that are ties for everybody."""
    prompts = [pair.prompt_id for pair in votes.pairs if pair.id in scored]
    preferences = [scored[pair.id] for pair in votes.pairs if pair.id in scored]
    return win_rate([*preferences, *(TIE for _ in votes.same)], [*prompts, *votes.same], level=level)


def _corrected(votes: RunVotes, judged: Mapping[str, float], people: Interval, level: float) -> Corrected | None:
    """People's rate with what the judge adds; where it is not trusted at all, people's own, with its interval."""
    human = _by_prompt(votes, votes.people)
    beside = _by_prompt(votes, {key: judged[key] for key in votes.people})
    others = _by_prompt(votes, {pair.id: judged[pair.id] for pair in votes.pairs if pair.prompt_id not in human})
    if len(others) < 2:
        return None
    found = corrected_mean(
        [*human.values(), *ADDED_PEOPLE],
        [*(beside[prompt] for prompt in human), *ADDED_JUDGE],
        list(others.values()),
        level=level,
    )
    if not found.tuning:
        return Corrected(people, 0.0, None)
    wide = _with_equals(votes, found.interval)
    alone = round(len(human) * (_width(people) / _width(wide)) ** 2)
    within = Interval(*(min(max(end, 0.0), 1.0) for end in wide))
    return Corrected(within, found.tuning, alone if alone > len(human) else None)


def _by_prompt(votes: RunVotes, preferences: Mapping[str, float]) -> dict[str, float]:
    """One value a prompt: the mean of its pairs that have one, with its equal pairs as ties; no value, no prompt."""
    differing, same = Counter(pair.prompt_id for pair in votes.pairs), Counter(votes.same)
    found = [(pair.prompt_id, preferences[pair.id]) for pair in votes.pairs if pair.id in preferences]
    means = prompt_means([value for _, value in found], [prompt for prompt, _ in found])
    return {
        prompt: _towards_tie(mean, differing[prompt] / (differing[prompt] + same[prompt]))
        for prompt, mean in means.items()
    }


def _with_equals(votes: RunVotes, interval: Interval) -> Interval:
    """Of all prompts, from that of the prompts with a pair that differs: the rest are ties, which needs no vote."""
    share = len({pair.prompt_id for pair in votes.pairs}) / len(votes.prompts)
    return Interval(*(_towards_tie(part, share) for part in interval))


def _towards_tie(rate: float, share: float) -> float:
    return TIE + share * (rate - TIE)


def _width(interval: Interval) -> float:
    return interval.high - interval.low
