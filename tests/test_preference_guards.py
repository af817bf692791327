"""Guards of preference training: what each stops, on logs made by hand and in runs that go wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import llama
from tiny_preferences import DPO, PAIRS, nothing, plain_lora, prefer

from posttrain.errors import PosttrainError
from posttrain.lm.preference.guards import ENOUGH, WINDOW, check_steps, guard_report
from posttrain.lm.preference.pair_trainer import PairTrainer

RATE = DPO.training.learning_rate


def entry(step: int, drop: float = 0.0, gain: float = 0.3, rate: float = RATE) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 0.5,
        "learning_rate": rate,
        "chosen_drop": drop,
        "rewards_margin": 0.1,
        "longer_margin": None,
        **{f"{side}_{of}": value for side in ("chosen", "rejected") for of, value in (("rows", 1.0), ("tokens", 50.0))},
        "chosen_gain": gain,
        "rejected_gain": -gain,
    }


def drops(*values: float) -> list[dict[str, Any]]:
    return [entry(step, drop=value) for step, value in enumerate(values, 1)]


# D8: the chosen answers collapse


def test_chosen_answers_that_lose_more_than_allowed_stop_the_run() -> None:
    limit = replace(DPO, max_chosen_drop=0.5)
    check_steps(drops(*[0.4] * 12), limit)
    with pytest.raises(PosttrainError, match=r"step 12: .* lost 0\.60 nats a token .*max_chosen_drop.*Lower learning_"):
        check_steps(drops(*[0.6] * 12), limit)
    check_steps(drops(*[0.6] * 12), replace(DPO, max_chosen_drop=None))


def test_one_bad_batch_is_no_collapse_and_an_old_one_is_forgotten() -> None:
    limit = replace(DPO, max_chosen_drop=0.5)
    check_steps(drops(*[0.1] * 9, 3.0), limit)
    with pytest.raises(PosttrainError, match="step 11"):
        check_steps(drops(*[0.1] * 9, 3.0, 3.0), limit)
    check_steps(drops(3.0, *[0.1] * WINDOW), limit)


def test_a_collapse_is_noticed_while_training_and_allowed_when_asked(tmp_path: Path) -> None:
    falling = replace(DPO, loss_type=("apo_down",), max_chosen_drop=0.05)
    how: dict[str, Any] = {"learning_rate": 5e-2, "epochs": 8}
    with pytest.raises(PosttrainError, match=r"the chosen answers have lost 0\.\d\d nats a token"):
        prefer(llama(), tmp_path / "a", falling, **how)
    report = prefer(llama(), tmp_path / "b", replace(falling, max_chosen_drop=None), **how).guards
    assert report.worst_chosen_drop is not None and report.worst_chosen_drop > 0.05
    sound = prefer(llama(), tmp_path / "c", replace(DPO, max_chosen_drop=0.05)).guards
    assert sound.chosen_drop is not None and sound.chosen_drop < 0


# The policy is its own reference, or another model's


def test_rewards_that_stay_at_0_stop_the_run_after_the_warm_up() -> None:
    still = [entry(step, gain=1e-6) for step in range(1, ENOUGH + 1)]
    with pytest.raises(PosttrainError, match=r"step 5: no answer's log-prob has moved by more than 1\.0e-06 nats"):
        check_steps(still, DPO)
    check_steps(still[:-1], DPO)
    check_steps([entry(step, gain=1e-6, rate=RATE / 10) for step in range(1, 40)], DPO)
    check_steps([*still[:-1], entry(ENOUGH)], DPO)


class Shared(PairTrainer):
    """The mistake: the reference is the very model that is trained."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.reference = self.model
        return super().train(*args, **kwargs)


def test_a_policy_that_is_its_own_reference_is_noticed(tmp_path: Path) -> None:
    longer = replace(DPO, training=replace(DPO.training, epochs=5))
    with pytest.raises(PosttrainError, match="no answer's log-prob has moved by more than 0"):
        Shared(llama(), PAIRS, longer, tmp_path / "a", nothing).train()
    PairTrainer(llama(), PAIRS, longer, tmp_path / "b", nothing).train()


def test_a_policy_that_is_not_its_reference_at_the_start_is_refused(tmp_path: Path) -> None:
    check_steps([entry(1, gain=0.1)], DPO)
    with pytest.raises(PosttrainError, match=r"step 1: .* 0\.400 nats a token away from its reference's"):
        check_steps([entry(1, gain=20)], DPO)
    trained = plain_lora()
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    with pytest.raises(PosttrainError, match="merge an adapter that is trained already"):
        prefer(trained, tmp_path)


# No number


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    model = llama()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(PosttrainError, match="step 1: the loss is nan; a finite number is needed"):
        prefer(model, tmp_path)


def test_the_report_holds_the_worst_window_and_leaves_out_what_no_step_had() -> None:
    report = guard_report(drops(0.1, 0.9, *[0.0] * 20))
    assert report.worst_chosen_drop == pytest.approx(0.5) and report.chosen_drop == 0
    assert report.rewards_margin == pytest.approx(0.1) and report.longer_margin is None
