"""Log-probs and implicit rewards: equal to a naive loop for any batch, in training and on held-out pairs."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import llama
from tiny_preferences import DPO, PAIRS, moved, naive, nothing, plain_lora, prefer, some_pairs
from torch import Tensor

from posttrain.lm.preference.figures import lengths, pair_sums, step_figures
from posttrain.lm.preference.measure import PairLogps, held_out, implicit_rewards, pair_logps, sequence_logps
from posttrain.lm.preference.pair_trainer import PairTrainer
from posttrain.lm.preference.pairs import unpaired

HELD = some_pairs(40, seed=9)


def far(found: list[float], wanted: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(found, wanted, strict=True))


# D4: log-probs


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_sums_of_log_probs_equal_a_naive_loop_for_any_batch(batch_size: int, tmp_path: Path) -> None:
    model, pairs = moved(), PAIRS[:6]
    wanted = [naive(model, pair.prompt, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    found = [p for pair in pair_logps(model, pairs, batch_size) for p in (pair.chosen, pair.rejected)]
    assert far(found, wanted) <= 1e-5
    sized = replace(DPO, training=replace(DPO.training, batch_size=batch_size))
    trainer = PairTrainer(model, pairs, sized, tmp_path, nothing)
    trainer.remember()
    assert far(trainer._start.T.flatten().tolist(), wanted) <= 1e-5


def test_the_naive_loop_tells_a_mask_that_is_off_by_one_and_padding_on_the_left() -> None:
    model, pair = moved(), PAIRS[0]
    wanted = naive(model, pair.prompt, pair.chosen)
    shifted = sequence_logps(model, [([*pair.prompt, pair.chosen[0]], pair.chosen[1:])])
    padded = sequence_logps(model, [([0, 0, 0, *pair.prompt], pair.chosen)])
    assert min(abs(shifted[0] - wanted), abs(padded[0] - wanted)) > 1e-2


# D2, D3: the reference


def fixed_logps(model: Any) -> list[float]:
    return sequence_logps(model, [(pair.prompt, pair.chosen) for pair in some_pairs(64, seed=3)])


def held(weights: dict[str, Tensor], model: Any) -> bool:
    return all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_a_copy_stays_the_reference_bit_for_bit(tmp_path: Path) -> None:
    trainer = PairTrainer(moved(), PAIRS, DPO, tmp_path, nothing)
    before = {name: value.clone() for name, value in trainer.reference.state_dict().items()}
    said = fixed_logps(trainer.reference)
    trainer.train()
    assert held(before, trainer.reference) and fixed_logps(trainer.reference) == said
    assert not held(before, trainer.model) and fixed_logps(trainer.model) != said


def test_the_base_under_an_adapter_stays_the_reference_bit_for_bit(tmp_path: Path) -> None:
    model = plain_lora()
    base = {name: value.clone() for name, value in model.state_dict().items() if "lora" not in name}
    with model.disable_adapter():
        said = fixed_logps(model)
    prefer(model, tmp_path)
    assert fixed_logps(model) != said
    with model.disable_adapter():
        assert fixed_logps(model) == said
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in base.items())


@pytest.mark.parametrize("make", [pytest.param(plain_lora, marks=pytest.mark.slow), moved], ids=["lora", "full"])
def test_scoring_the_reference_before_changes_no_figure_and_no_random_state(make: Any, tmp_path: Path) -> None:
    def run(precompute: bool) -> tuple[Any, Tensor]:
        settings = replace(DPO, precompute_ref_log_probs=precompute)
        curve = prefer(make(), tmp_path / str(precompute), settings).curve
        return curve, torch.get_rng_state()

    (fly, state), (before, state_before) = run(False), run(True)
    assert torch.equal(state, state_before)
    for a, b in zip(fly, before, strict=True):
        assert far([x for x in a if x is not None], [x for x in b if x is not None]) <= 1e-5


def test_remembering_draws_no_number_and_scores_every_row_once(tmp_path: Path) -> None:
    trainer = PairTrainer(moved(), PAIRS, DPO, tmp_path, nothing)
    state = torch.get_rng_state()
    trainer.remember()
    assert torch.equal(state, torch.get_rng_state())
    loader = torch.utils.data.DataLoader(trainer.train_dataset, collate_fn=trainer.data_collator)
    assert len([*loader]) == len(PAIRS)  # what TRL scores its reference with
    assert not torch.equal(state, torch.get_rng_state())


# D6, D7: what is learnt


def test_swapped_labels_turn_the_held_out_margin_round(tmp_path: Path) -> None:
    reference = pair_logps(llama(), HELD)
    swapped = [pair._replace(chosen=pair.rejected, rejected=pair.chosen) for pair in PAIRS]
    found = []
    for name, pairs in (("right", PAIRS), ("swapped", swapped)):
        model = llama()
        prefer(model, tmp_path / name, pairs=pairs)
        found.append(held_out(pair_logps(model, HELD), reference, beta=0.1))
    right, wrong = found
    assert right.accuracy > 0.9 and right.margin > 0.05 and right.chosen_drop < right.rejected_drop
    assert wrong.accuracy < 0.1 and wrong.margin < -0.05


def test_rewards_are_beta_times_the_change_and_an_unchanged_model_is_undecided() -> None:
    old = [PairLogps("a", -10.0, -12.0, 4, 6), PairLogps("b", -8.0, -6.0, 5, 5), PairLogps("c", -9.0, -7.0, 7, 3)]
    new = [PairLogps("a", -9.0, -13.0, 4, 6), PairLogps("b", -8.0, -6.0, 5, 5), PairLogps("c", -10.0, -6.0, 7, 3)]
    rewards = implicit_rewards(new, old, beta=0.5)
    assert [(r.id, r.chosen, r.rejected, r.longer_by) for r in rewards] == [
        ("a", 0.5, -0.5, -2),
        ("b", 0, 0, 0),
        ("c", -0.5, 0.5, 4),
    ]
    assert [r.right for r in rewards] == [1, 0.5, 0]
    mean = held_out(new, old, beta=0.5)
    assert mean.pairs == 3 and mean.accuracy == 0.5 and mean.margin == 0
    assert mean.likelier == pytest.approx(1 / 3)  # 'c' alone: -10 / 7 a token against -6 / 3
    assert mean.margin_and_length is not None and mean.margin_and_length < -0.9
    assert (mean.chosen_tokens, mean.rejected_tokens) == pytest.approx((16 / 3, 14 / 3))
    assert mean.chosen_logp == pytest.approx(-27 / 16) and mean.chosen_drop == pytest.approx(0)
    unchanged = held_out(old, old, beta=0.5)
    assert unchanged.accuracy == 0.5 and unchanged.margin == 0 and unchanged.margin_and_length is None


def test_a_preference_for_length_shows_in_the_margin_of_the_longer_answer() -> None:
    start, tokens = torch.zeros(6), torch.tensor([9, 2, 5, 3, 8, 5])
    for_length = torch.tensor([0.9, 0.2, 0.5, 0.3, 0.8, 0.5])
    figures = step_figures(pair_sums(for_length, start, tokens), beta=2.0)
    assert figures["longer_margin"] == pytest.approx(2.0 * 0.6)
    assert figures["rewards_margin"] == pytest.approx(0, abs=1e-6)
    fair = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    figures = step_figures(pair_sums(fair, start, tokens), beta=2.0)
    assert figures["longer_margin"] == pytest.approx(0) and figures["rewards_margin"] == pytest.approx(2)
    assert figures["rewards_accuracy"] == 1


def test_lengths_of_chosen_and_rejected_answers_are_reported(tmp_path: Path) -> None:
    found = prefer(llama(), tmp_path, epochs=1).lengths
    assert found.chosen == sum(len(pair.chosen) for pair in PAIRS) / len(PAIRS)
    assert found.rejected == sum(len(pair.rejected) for pair in PAIRS) / len(PAIRS)
    assert found.chosen_longer == sum(len(p.chosen) > len(p.rejected) for p in PAIRS) / len(PAIRS)
    assert lengths(unpaired(PAIRS)) == found._replace(chosen_longer=None)
    assert not math.isclose(found.chosen, found.rejected)
