"""A win rate corrected by votes covers where the judge alone misses; a judge is trusted as far as it helps."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from label_fakes import STEPS

from eval.labels import A, B
from eval.ppi import corrected_mean
from eval.recorded import PairVerdict, Pick
from eval.statistics import Interval
from posttrain.labelling import correcting
from posttrain.labelling.correcting import Rate, win_rates
from posttrain.labelling.correcting_table import WinRates
from posttrain.labelling.pairs import Pair, shuffled
from posttrain.labelling.run_votes import RunVotes

PROMPTS, SAMPLES, WINS, EQUAL = 120, 2, 0.55, 0.1
TRUTH = EQUAL / 2 + (1 - EQUAL) * WINS


class Study(NamedTuple):
    """How often each interval held the true rate, over simulated files of votes."""

    corrected: float
    judge_alone: float
    people: float
    narrower: float  # mean width of the corrected interval over that of people alone
    trust: float


def simulated(seed: int) -> tuple[list[Pair], list[str], dict[str, float]]:
    """Pairs that differ, the prompts of the others, and what people would say of each, were they asked."""
    rng = np.random.default_rng(seed)
    pairs, same, truth = [], [], {}
    for prompt in range(PROMPTS):
        wins = rng.beta(4 * WINS, 4 * (1 - WINS))  # two answers to one prompt are alike
        for sample in range(SAMPLES):
            if rng.random() < EQUAL:
                same.append(f"p{prompt}")
                continue
            pairs.append(Pair(f"p{prompt}/{sample}", sample, f"Prompt {prompt}", "a", "b", {}))
            truth[pairs[-1].id] = float(rng.random() < wins)
    return pairs, same, truth


def biased(rng: np.random.Generator, truth: float) -> float:
    """For step a wherever it is, and in half of the pairs where it is not."""
    return 1.0 if rng.random() < 0.5 else truth


def study(
    judge: Callable[[np.random.Generator, float], float],
    labelled: int,
    runs: int = 120,
    picky: Callable[[float], bool] = lambda _: True,
) -> Study:
    rates: list[Rate] = []
    for seed in range(runs):
        pairs, same, truth = simulated(seed)
        rng = np.random.default_rng([seed, 1])
        verdicts = [PairVerdict(pair.id, Pick(A if judge(rng, truth[pair.id]) else B)) for pair in pairs]
        asked = [pair.id for pair in shuffled(pairs, seed) if picky(truth[pair.id])][:labelled]
        votes = RunVotes(STEPS, pairs, same, {key: truth[key] for key in asked})
        rates += win_rates(votes, {"judge": verdicts})

    def covered(interval: Interval | None) -> bool:
        return interval is not None and interval.low <= TRUTH <= interval.high

    widths = [(rate.corrected.high - rate.corrected.low) / _width(rate.people) for rate in rates if rate.corrected]
    return Study(
        float(np.mean([covered(rate.corrected) for rate in rates])),
        float(np.mean([covered(rate.judge_alone) for rate in rates])),
        float(np.mean([covered(rate.people) for rate in rates])),
        float(np.mean(widths)),
        float(np.mean([rate.tuning for rate in rates])),
    )


def _width(interval: Interval) -> float:
    return interval.high - interval.low


def test_a_biased_judge_misses_the_true_rate_and_the_correction_covers_it() -> None:
    found = study(biased, 40)
    assert 0.93 <= found.corrected <= 0.995
    assert found.judge_alone == 0  # the negative control
    assert 0.92 <= found.people <= 0.99
    assert found.narrower < 1 and found.trust > 0.2


@pytest.mark.slow
def test_with_ten_votes_it_covers_too_which_takes_the_two_prompts_that_are_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lean(rng: np.random.Generator, truth: float) -> float:
        return 1.0 if rng.random() < 0.2 else truth

    assert study(lean, 10).corrected >= 0.95
    monkeypatch.setattr(correcting, "ADDED_PEOPLE", ())
    monkeypatch.setattr(correcting, "ADDED_JUDGE", ())
    assert study(lean, 10).corrected < 0.88


def test_votes_on_the_pairs_that_one_likes_correct_nothing() -> None:
    assert study(biased, 40, runs=100, picky=lambda truth: truth == 1).corrected < 0.1


def test_a_judge_that_is_noise_is_hardly_trusted() -> None:
    found = study(lambda rng, _: float(rng.integers(2)), 40, runs=100)
    assert found.trust < 0.15 and 0.9 < found.narrower < 1.1 and found.corrected >= 0.92


def votes_on(count: int, labelled: int, same: Sequence[str] = (), samples: int = 1) -> RunVotes:
    """People prefer step a at every even prompt."""
    pairs = [Pair(f"p{n}/{sample}", sample, f"P{n}", "a", "b", {}) for n in range(count) for sample in range(samples)]
    people = {f"p{n}/0": float(n % 2 == 0) for n in range(labelled)}
    return RunVotes(STEPS, pairs, list(same), people)


def verdicts_of(votes: RunVotes, pick: Callable[[int], int | None]) -> list[PairVerdict]:
    return [PairVerdict(pair.id, Pick(pick(int(pair.prompt_id[1:])))) for pair in votes.pairs]


def even(prompt: int) -> int:
    return A if prompt % 2 == 0 else B


def test_it_is_the_corrected_mean_of_one_value_a_prompt() -> None:
    votes = votes_on(100, 20, samples=2)
    (rate,) = win_rates(votes, {"judge": verdicts_of(votes, even)})
    human = [1.0, 0.0] * 10
    found = corrected_mean([*human, 1, 0], [*human, 0, 1], [1.0, 0.0] * 40)
    assert rate.corrected == pytest.approx(found.interval) and rate.tuning == found.tuning
    assert rate.people.mean == rate.judge_alone.mean == 0.5  # type: ignore[union-attr]
    ratio = _width(rate.people) / _width(found.interval)
    assert rate.labels_alone == round(20 * ratio**2) and rate.labels_saved == rate.labels_alone - 20 > 0


def test_a_judge_that_is_not_trusted_leaves_peoples_rate_as_it_is() -> None:
    votes = votes_on(100, 20)
    same, wrong = win_rates(
        votes, {"same": verdicts_of(votes, lambda _: A), "wrong": verdicts_of(votes, lambda n: 3 - even(n))}
    )
    for rate in (same, wrong):
        assert rate.corrected == rate.people and rate.tuning == 0
        assert rate.labels_alone is None and rate.labels_saved is None
    assert same.judge_alone is not None and same.judge_alone.mean == 1


def test_equal_texts_are_ties_that_nobody_is_asked_about() -> None:
    plain, mixed = votes_on(100, 20), votes_on(100, 20, [f"q{n}" for n in range(100)])
    for pick in (even, lambda n: A if n % 3 else B):
        (one,), (other,) = (win_rates(votes, {"judge": verdicts_of(votes, pick)}) for votes in (plain, mixed))
        assert one.corrected and one.judge_alone and other.corrected and other.judge_alone
        assert other.corrected == pytest.approx([0.25 + end / 2 for end in one.corrected])
        assert other.people == pytest.approx([0.25 + end / 2 for end in one.people])
        assert other.judge_alone.mean == pytest.approx(0.25 + one.judge_alone.mean / 2)
    some = votes_on(100, 20, [f"p{n}" for n in range(100)])  # the second sample of each prompt
    (rate,) = win_rates(some, {"judge": verdicts_of(some, lambda _: A)})
    assert rate.judge_alone is not None and rate.judge_alone.mean == 0.75
    assert rate.people.mean == 0.5 and _width(rate.people) < 0.75 * _width(votes_rate(plain).people)


def votes_rate(votes: RunVotes) -> Rate:
    return win_rates(votes, {"judge": verdicts_of(votes, even)})[0]


def test_one_pair_of_every_prompt_is_shown_before_any_second_one() -> None:
    pairs = [Pair(f"p{n}/{sample}", sample, "", "a", "b", {}) for n in range(40) for sample in range(2)]
    left = [pair for pair in pairs if pair.id not in {f"p{n}/0" for n in range(20)}]  # whose first texts are equal
    order = shuffled(left, 3)
    assert len({pair.prompt_id for pair in order[:40]}) == 40
    assert 0 < sum(pair.sample for pair in order[:20]) < 20  # and they are mixed, not at the end


def test_unscored_pairs_are_counted_and_cost_no_vote() -> None:
    votes = votes_on(100, 20)
    (rate,) = win_rates(votes, {"judge": verdicts_of(votes, lambda n: None if n % 5 == 0 else even(n))})
    assert rate.unscored == 20 and rate.corrected and rate.tuning
    assert rate.judge_alone is not None and rate.judge_alone.mean == pytest.approx(0.5)
    (mute,) = win_rates(votes, {"mute": verdicts_of(votes, lambda _: None)})
    assert mute.judge_alone is None and mute.corrected == mute.people
    assert any("mute: 100 of 100 unscored" in note for note in WinRates(votes, [mute]).remarks())


def test_where_every_prompt_has_a_vote_there_is_nothing_to_correct() -> None:
    for left in (0, 1):
        votes = votes_on(20 + left, 20)
        rate = votes_rate(votes)
        assert rate.corrected is None and rate.judge_alone is not None and rate.people.mean == 0.5
        assert any(f"{left} prompts have no vote" in note for note in WinRates(votes, [rate]).remarks())
    assert votes_rate(votes_on(22, 20)).corrected is not None
