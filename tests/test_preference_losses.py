"""The losses: names and values checked before the start, each one trains, and those without a reference are TRL's."""

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import llama, weights_hash
from tiny_preferences import DPO, PAIRS, moved, naive, nothing, plain_lora, prefer, some_pairs, stop_at
from trl import DPOTrainer, KTOTrainer

from posttrain.errors import PosttrainError
from posttrain.lm.preference.answer_trainer import AnswerTrainer
from posttrain.lm.preference.pairs import unpaired
from posttrain.lm.preference.settings import (
    DPO_LOSSES,
    LOSSES,
    UNPAIRED,
    PreferenceSettings,
    check_losses,
    check_settings,
)
from posttrain.lm.preference.training import check_trainer
from posttrain.lm.supervised_trainer import LengthGroupedBatches

SHOWN = ("sigmoid", "simpo", "orpo", "kto")  # one of each trainer; the others when asked


def with_loss(name: str, **changes: Any) -> PreferenceSettings:
    smoothing = 1e-3 if name == "exo_pair" else 0.0
    return replace(DPO, loss_type=(name,), **{"label_smoothing": smoothing, **changes})


# Names and values


def named_by(trainer: Any) -> set[str]:
    return set(re.findall(r'loss_type == "(\w+)"', inspect.getsource(trainer)))


def test_the_names_are_those_that_trl_knows() -> None:
    assert named_by(DPOTrainer._compute_loss) == set(DPO_LOSSES)
    assert named_by(KTOTrainer._compute_loss) == set(UNPAIRED)
    assert len(set(LOSSES)) == len(LOSSES)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["sigmod"], "loss_type: 'sigmod'; sigmoid, hinge, .* are allowed. Did you mean sigmoid"),
        (["ko"], "Did you mean kto"),
        (["sigmoid", "reward"], "loss_type: 'reward'; .* The usual one is sigmoid"),
        ([], "loss_type: no name; at least one"),
        (["simpo", "sft"], "simpo has a trainer of its own and stands alone"),
        (["sft", "sft"], "each loss once is allowed"),
    ],
)
def test_an_unknown_loss_is_refused_with_near_names_before_anything_starts(names: list[str], said: str) -> None:
    with pytest.raises(PosttrainError, match=said):
        check_losses(names)
    check_losses(["sigmoid", "sft"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss_weights": (1.0, 2.0)}, "loss_weights: 2 values for 1 losses"),
        ({"beta": 0.0}, "beta: 0.0; more than 0"),
        ({"label_smoothing": 0.1}, "label_smoothing: is set, and the loss sigmoid does not read it; exo_pair, robust"),
        ({"loss_type": ("robust",), "label_smoothing": 0.5}, "label_smoothing: 0.5 with loss robust; from 0 to below"),
        ({"loss_type": ("exo_pair",)}, "label_smoothing: 0.0 with loss exo_pair; from 1e-06"),
        ({"loss_type": ("simpo",), "precompute_ref_log_probs": True}, "precompute_ref_log_probs: is set, and the loss"),
        ({"simpo_gamma": 1.0}, "simpo_gamma: is set, .* simpo do"),
        ({"loss_type": ("orpo",), "cpo_alpha": 1.0}, "cpo_alpha: is set"),
        ({"loss_type": ("kto",), "training": replace(DPO.training, batch_size=1)}, "batch_size: 1 with loss kto"),
    ],
)
def test_a_value_that_cannot_be_or_is_not_read_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(PosttrainError, match=said):
        prefer(llama(), tmp_path, replace(DPO, **changes))
    assert not list(tmp_path.iterdir())
    check_settings(DPO)


def test_trainer_fields_are_checked_against_the_config_of_the_loss() -> None:
    for name in ("sigmoid", "simpo", "orpo", "kto"):
        check_trainer(with_loss(name), "recipe: step 'dpo'")
    bad = replace(DPO, training=replace(DPO.training, trainer={"max_stepz": 3}))
    with pytest.raises(PosttrainError, match=r"recipe: step 'dpo'\.trainer\.max_stepz: no such field.*max_steps"):
        check_trainer(bad, "recipe: step 'dpo'")


# Each trains


@pytest.mark.parametrize(
    "name", [name if name in SHOWN else pytest.param(name, marks=pytest.mark.slow) for name in LOSSES]
)
@pytest.mark.parametrize("make", [llama, pytest.param(plain_lora, marks=pytest.mark.slow)], ids=["full", "lora"])
def test_a_loss_trains(name: str, make: Any, tmp_path: Path) -> None:
    model = make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = prefer(model, tmp_path, with_loss(name), trainer={"max_steps": 3})
    assert result.steps == 3 and all(torch.isfinite(torch.tensor(point.loss)) for point in result.curve)
    assert result.curve[0].chosen_drop == pytest.approx(0, abs=1e-5) and result.curve[-1].chosen_drop != 0
    assert any(not torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert list(model.state_dict()) == list(before)


def test_losses_are_summed_by_their_weights(tmp_path: Path) -> None:
    def first(loss_type: tuple[str, ...], weights: tuple[float, ...] | None) -> float:
        settings = replace(DPO, loss_type=loss_type, loss_weights=weights)
        name = "-".join(loss_type) + str(weights)
        return prefer(llama(), tmp_path / name, settings, trainer={"max_steps": 1}).curve[0].loss

    dpo, sft, both = first(("sigmoid",), None), first(("sft",), None), first(("sigmoid", "sft"), (1.0, 0.5))
    assert both == pytest.approx(dpo + 0.5 * sft, abs=1e-5) and both != pytest.approx(dpo + sft, abs=1e-2)


# Without a reference, and with single answers


def per_token(model: Any) -> list[tuple[float, float]]:
    return [
        (naive(model, p.prompt, p.chosen) / len(p.chosen), naive(model, p.prompt, p.rejected) / len(p.rejected))
        for p in PAIRS
    ]


def log_sigmoid(x: float) -> float:
    return float(torch.nn.functional.logsigmoid(torch.tensor(x, dtype=torch.float64)))


def whole_batch(name: str, path: Path, **changes: Any) -> float:
    """The loss of the first step, over all pairs."""
    settings = with_loss(name, **changes)
    return prefer(moved(), path, settings, batch_size=len(PAIRS), trainer={"max_steps": 1}).curve[0].loss


def test_simpo_is_its_papers_loss(tmp_path: Path) -> None:
    means = per_token(moved())
    wanted = [-log_sigmoid(2.0 * (chosen - rejected) - 0.7) for chosen, rejected in means]
    found = whole_batch("simpo", tmp_path / "a", beta=2.0, simpo_gamma=0.7)
    assert found == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)
    assert whole_batch("simpo", tmp_path / "b", beta=2.0, simpo_gamma=0.5) != pytest.approx(found, abs=1e-2)


def test_cpo_is_dpo_without_a_reference_and_the_cross_entropy_of_the_chosen_answers(tmp_path: Path) -> None:
    model = moved()
    sums = [(naive(model, p.prompt, p.chosen), naive(model, p.prompt, p.rejected)) for p in PAIRS]
    contrast = sum(-log_sigmoid(0.1 * (chosen - rejected)) for chosen, rejected in sums) / len(PAIRS)
    entropy = -sum(chosen for chosen, _ in sums) / sum(len(p.chosen) for p in PAIRS)
    assert whole_batch("cpo", tmp_path / "a") == pytest.approx(contrast + entropy, abs=1e-5)
    assert whole_batch("cpo", tmp_path / "b", cpo_alpha=0.0) == pytest.approx(contrast, abs=1e-5)


def test_orpo_is_its_papers_odds_ratio_and_the_cross_entropy_of_prompt_and_chosen_answer(tmp_path: Path) -> None:
    model = moved()

    def log_odds(mean: float) -> float:
        return mean - float(torch.log1p(-torch.exp(torch.tensor(mean, dtype=torch.float64))))

    ratio = sum(-log_sigmoid(log_odds(chosen) - log_odds(rejected)) for chosen, rejected in per_token(model))
    whole = [(p.prompt[:1], p.prompt[1:] + p.chosen) for p in PAIRS]
    entropy = -sum(naive(model, *row) for row in whole) / sum(len(answer) for _, answer in whole)
    found = whole_batch("orpo", tmp_path)
    assert found == pytest.approx(entropy + 0.1 * ratio / len(PAIRS), abs=1e-5)
    alone = -sum(naive(model, p.prompt, p.chosen) for p in PAIRS) / sum(len(p.chosen) for p in PAIRS)
    assert found != pytest.approx(alone + 0.1 * ratio / len(PAIRS), abs=1e-2)


@pytest.mark.parametrize("make", [plain_lora, moved], ids=["lora", "full"])
def test_kto_starts_at_a_half_from_a_model_in_memory_and_takes_pairs_apart(make: Any, tmp_path: Path) -> None:
    once = {"trainer": {"max_steps": 2}}
    curve = prefer(make(), tmp_path / "a", with_loss("kto"), **once).curve
    assert curve[0].loss == pytest.approx(0.5, abs=1e-6)
    assert prefer(make(), tmp_path / "b", with_loss("kto"), pairs=unpaired(PAIRS), **once).curve == curve
    weighed = prefer(make(), tmp_path / "c", with_loss("kto", undesirable_weight=3.0), **once).curve
    assert weighed[0].loss > 0.6


def test_batches_of_single_answers_mix_good_and_bad_ones_however_long_they_are(tmp_path: Path) -> None:
    wordy = [pair._replace(chosen=pair.chosen[:-1] * 5 + pair.chosen[-1:]) for pair in some_pairs(32)]
    trainer = AnswerTrainer(llama(), unpaired(wordy), with_loss("kto"), tmp_path, nothing)

    def mixed(order: Any) -> float:
        labels = [trainer.train_dataset[i]["label"] for i in order]
        batches = [labels[at : at + 4] for at in range(0, len(labels), 4)]
        return sum(0 < sum(batch) < 4 for batch in batches) / len(batches)

    sampler = trainer._get_train_sampler()
    first = list(sampler)
    assert sorted(first) == list(range(64)) and first == list(sampler) and mixed(first) > 0.7
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert mixed(LengthGroupedBatches(trainer._lengths, 4, seed=0)) < 0.4


def test_single_answers_are_refused_by_losses_over_pairs(tmp_path: Path) -> None:
    with pytest.raises(PosttrainError, match="data: single answers with a verdict, and the loss sigmoid; pairs"):
        prefer(llama(), tmp_path, pairs=unpaired(PAIRS))


@pytest.mark.parametrize(
    "name", ["kto", "simpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cpo", "orpo"))]
)
def test_every_trainer_ends_an_interrupted_run_with_the_bytes_of_an_uninterrupted_one(
    name: str, tmp_path: Path
) -> None:
    settings = with_loss(name)
    how: dict[str, Any] = {"save_every_steps": 2, "epochs": 1 if name == "kto" else 2}
    whole, resumed = llama(), llama()
    expected = prefer(whole, tmp_path / "whole", settings, **how)
    assert expected.steps == 6
    with pytest.raises(KeyboardInterrupt):
        prefer(llama(), tmp_path / "c", settings, on_step=stop_at(5), **how)
    result = prefer(resumed, tmp_path / "c", settings, **how)
    assert weights_hash(resumed, tmp_path / "b") == weights_hash(whole, tmp_path / "a")
    assert result._replace(seconds=0) == expected._replace(seconds=0)
