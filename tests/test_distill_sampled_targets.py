"""Sparse targets are unbiased, and a pure function of seed, row and position; what is neither, is caught."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.sampled_targets import (
    Draws,
    SparseTargets,
    TargetSettings,
    disagreeing,
    draw_targets,
    uniforms,
)

VOCABULARY = 40
SETTINGS = TargetSettings(vocabulary=VOCABULARY)
DRAWS = 100_000  # of each estimate, as the oracle says
Estimate = Callable[[Draws], Tensor]


def teacher_logits(positions: int = 1, size: int = VOCABULARY) -> Tensor:
    """Uneven on purpose: probabilities from about 0.0005 to 0.3."""
    return torch.randn(positions, size, generator=torch.Generator().manual_seed(3)) * 1.5


def drawn(logits: Tensor, settings: TargetSettings = SETTINGS, row: int = 0) -> Draws:
    numbers = uniforms(settings.seed, row, range(len(logits)), settings.draws)
    return draw_targets(logits, torch.from_numpy(numbers), settings)


def dense(ids: Tensor, weights: Tensor) -> Tensor:
    return torch.zeros(len(ids), VOCABULARY).scatter_add_(1, ids, weights)


def assert_unbiased(settings: TargetSettings, estimate: Estimate) -> None:
    """The mean of DRAWS estimates of one position is the teacher within four standard errors at every id."""
    logits = teacher_logits()
    p = torch.softmax(logits[0].double() / settings.temperature, -1)
    q = torch.softmax(torch.log(p) * settings.proposal, -1)
    error = ((p**2 / q - p**2) / settings.draws / DRAWS).sqrt()
    total = torch.zeros(VOCABULARY, dtype=torch.float64)
    for row in range(20):
        total += estimate(drawn(logits.expand(DRAWS // 20, -1), settings, row)).double().sum(0)
    off = ((total / DRAWS - p).abs() / error).max().item()
    assert off <= 4, f"{off:.1f} standard errors away"


def as_drawn(draws: Draws) -> Tensor:
    return dense(draws.ids, draws.weights)


SHAPES = [(1.0, 1.0), (2.0, 1.0), (1.0, 0.8), (1.0, 1.2), (4.0, 0.5)]


@pytest.mark.parametrize(("temperature", "proposal"), SHAPES)
def test_the_mean_of_many_draws_is_the_teacher_at_every_id(temperature: float, proposal: float) -> None:
    assert_unbiased(replace(SETTINGS, temperature=temperature, proposal=proposal), as_drawn)


def test_one_draw_is_unbiased_too() -> None:
    assert_unbiased(replace(SETTINGS, draws=1), as_drawn)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_renormalised_top_k_is_caught_as_biased(temperature: float) -> None:
    settings = replace(SETTINGS, temperature=temperature)
    top = torch.softmax(teacher_logits() / temperature, -1).topk(settings.draws)
    fixed = dense(top.indices, top.values / top.values.sum())
    with pytest.raises(AssertionError, match="standard errors away"):
        assert_unbiased(settings, lambda draws: fixed.expand(len(draws.ids), -1))


def test_weights_made_to_sum_to_one_are_caught_as_biased() -> None:
    settings = replace(SETTINGS, proposal=0.5)
    with pytest.raises(AssertionError, match="standard errors away"):
        assert_unbiased(settings, lambda d: dense(d.ids, d.weights / d.weights.sum(1, keepdim=True)))


def test_draws_of_another_proposal_without_their_weights_are_caught_as_biased() -> None:
    settings = replace(SETTINGS, proposal=0.8)
    with pytest.raises(AssertionError, match="standard errors away"):
        assert_unbiased(settings, lambda d: dense(d.ids, d.counts / settings.draws))


def test_ids_are_merged_ascending_and_their_counts_are_the_draws() -> None:
    draws = drawn(teacher_logits(500))
    assert (draws.counts.sum(1) == SETTINGS.draws).all()
    assert torch.equal(draws.weights, draws.counts.float() / SETTINGS.draws)
    for ids, counts in zip(draws.ids.tolist(), draws.counts.tolist(), strict=True):
        filled = sum(count > 0 for count in counts)
        assert all(counts[:filled]) and not any(counts[filled:]) and not any(ids[filled:])
        assert ids[:filled] == sorted(set(ids[:filled]))
    assert (draws.counts > 1).any() and (draws.counts == 0).any(), "something was merged"


def positions_in(order: list[list[int]], make: Callable[[list[int]], Draws]) -> list[Tensor]:
    """All draws, made in these batches of positions, back in the order of the positions."""
    parts = [make(batch) for batch in order]
    back = torch.tensor([at for batch in order for at in batch]).argsort()
    return [torch.cat(column)[back] for column in zip(*parts, strict=True)]


def batches_of(positions: int) -> Iterator[list[list[int]]]:
    mixed = torch.randperm(positions, generator=torch.Generator().manual_seed(0)).tolist()
    for order in (list(range(positions)), list(range(positions))[::-1], mixed):
        for size in (1, 7, positions):
            yield [order[at : at + size] for at in range(0, positions, size)]


def same_bytes_in_any_order(make: Callable[[list[int]], Draws]) -> bool:
    whole, *others = [positions_in(order, make) for order in batches_of(30)]
    return all(torch.equal(a, b) for other in others for a, b in zip(whole, other, strict=True))


def test_draws_are_the_same_bytes_in_any_batches_and_any_order() -> None:
    logits = teacher_logits(30)

    def make(at: list[int]) -> Draws:
        numbers = torch.from_numpy(uniforms(5, 2, at, SETTINGS.draws))
        return draw_targets(logits[at], numbers, SETTINGS)

    assert same_bytes_in_any_order(make)


@pytest.mark.parametrize("cached", [1, 3 * VOCABULARY])
def test_the_pieces_that_stay_in_the_cache_change_no_draw(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn(teacher_logits(7))
    monkeypatch.setattr("posttrain.lm.distillation.sampled_targets.IN_CACHE", cached)
    assert all(torch.equal(a, b) for a, b in zip(drawn(teacher_logits(7)), whole, strict=True))
    assert not torch.equal(drawn(teacher_logits(7), row=1).ids, whole.ids)


def test_a_generator_that_runs_along_with_the_batches_is_caught() -> None:
    logits, generator = teacher_logits(30), torch.Generator().manual_seed(5)

    def make(at: list[int]) -> Draws:
        numbers = torch.rand(len(at), SETTINGS.draws, generator=generator, dtype=torch.float64).sort(1).values
        return draw_targets(logits[at], numbers, SETTINGS)

    assert not same_bytes_in_any_order(make)


def test_another_seed_row_or_position_has_other_numbers() -> None:
    first = uniforms(0, 0, [3], 12)
    assert np.array_equal(first, uniforms(0, 0, [1, 2, 3], 12)[2:])
    others = [uniforms(1, 0, [3], 12), uniforms(0, 1, [3], 12), uniforms(0, 0, [4], 12)]
    assert not any(np.isin(first, other).any() for other in others)
    assert uniforms(0, 0, [], 12).shape == (0, 12)


def test_the_numbers_are_uniform_and_never_an_end() -> None:
    numbers = np.sort(np.concatenate([uniforms(7, row, range(100), 12).ravel() for row in range(50)]))
    steps = np.arange(1, len(numbers) + 1) / len(numbers)
    assert np.abs(numbers - steps).max() < 1.95 / len(numbers) ** 0.5, "Kolmogorov-Smirnov, p = 0.001"
    assert numbers.min() > 0 and numbers.max() < 1


def test_an_id_without_probability_is_never_drawn() -> None:
    logits = teacher_logits(2000)
    logits[:, [0, 7, VOCABULARY - 1]] = -torch.inf
    for proposal in (1.0, 0.5):
        draws = drawn(logits, replace(SETTINGS, proposal=proposal))
        assert not torch.isin(draws.ids[draws.counts > 0], torch.tensor([0, 7, VOCABULARY - 1])).any()
        assert torch.isfinite(draws.weights).all()
    ends = torch.tensor([2.0**-49, 1 - 2.0**-49], dtype=torch.float64).expand(len(logits), -1)
    sums = torch.softmax(logits, -1).double().sum(1)
    assert (sums < 1 - 1e-9).any() and (sums > 1 + 1e-9).any(), "rounded sums on both sides of 1"
    found = draw_targets(logits, ends, replace(SETTINGS, draws=2)).ids
    assert (found == torch.tensor([1, VOCABULARY - 2])).all()


def test_padded_head_rows_are_never_drawn_whatever_they_hold() -> None:
    logits = teacher_logits(50, VOCABULARY + 5)
    other = logits.clone()
    other[:, VOCABULARY:] = 50
    for a, b in zip(drawn(logits), drawn(other), strict=True):
        assert torch.equal(a, b)
    changed = drawn(other, replace(SETTINGS, vocabulary=VOCABULARY + 5))
    assert (changed.ids >= VOCABULARY).any(), "within the vocabulary they count"


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_refused(bad: float) -> None:
    logits = teacher_logits(3)
    logits[1, 4] = bad
    with pytest.raises(PosttrainError, match="teacher: its logits are not numbers"):
        drawn(logits)


def test_a_head_smaller_than_the_vocabulary_is_refused() -> None:
    with pytest.raises(PosttrainError, match="its output head has 39 rows for 40 tokens"):
        drawn(teacher_logits(2, VOCABULARY - 1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocabulary", 1),
        ("draws", 0),
        ("draws", 256),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("proposal", -1.0),
        ("proposal", float("inf")),
        ("seed", -1),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(PosttrainError, match=f"cached targets, {name}: {value}; .* allowed"):
        replace(SETTINGS, **{name: value})


def test_one_and_one_point_zero_are_one_setting() -> None:
    assert repr(TargetSettings(VOCABULARY, temperature=2, proposal=1)) == repr(
        TargetSettings(VOCABULARY, temperature=2.0, proposal=1.0)
    )


@pytest.mark.parametrize(("temperature", "proposal"), SHAPES)
def test_recomputed_positions_agree_up_to_rounding_and_no_further(temperature: float, proposal: float) -> None:
    settings, logits = replace(SETTINGS, temperature=temperature, proposal=proposal), teacher_logits(400)
    numbers = torch.from_numpy(uniforms(0, 0, range(400), settings.draws))
    draws = draw_targets(logits, numbers, settings)
    stored = SparseTargets(draws.ids, draws.weights.half().float())
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))

    def differing(logits: Tensor, targets: SparseTargets = stored) -> int:
        return int(disagreeing(logits, numbers, targets, settings).sum())

    assert differing(logits) == 0
    assert differing(logits + 1e-5 * noise) == 0
    assert differing(logits + 0.3 * noise) > 100
    assert differing(logits.roll(1, 0)) > 390, "targets of the next position"
    assert differing(logits, SparseTargets(*(part.roll(1, 0) for part in stored))) > 390
    one = stored.ids.clone()
    one[17, 0] = (one[17, 0] + 3) % VOCABULARY
    assert differing(logits, stored._replace(ids=one)) == 1
    for factor in (0.8, 1.2, 2.0):
        other = stored.weights.clone()
        other[17, 0] *= factor
        assert differing(logits, stored._replace(weights=other)) == 1
