"""Training on a teacher: what is minimised falls, an interruption changes no byte, the teacher stays as it was."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from distill_pair import llama
from safetensors.torch import load_file
from tiny_llama import STEADY, STOP, VOCABULARY, some_rows, weights_hash
from torch import Tensor

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.cross_tokenizer import AlignedRow, RealIds
from posttrain.lm.distillation.held_out import row_divergence
from posttrain.lm.distillation.hidden_states import IntermediateMatching
from posttrain.lm.distillation.logit_loss import LogitDistillation
from posttrain.lm.distillation.objectives import Cached, CrossTokenizer, Hidden, Logits
from posttrain.lm.distillation.on_policy import OnPolicy, OwnAnswers
from posttrain.lm.distillation.sampled_targets import TargetSettings
from posttrain.lm.distillation.target_store import Origin, TargetStore
from posttrain.lm.distillation.training import Batch, Objective, distil
from posttrain.lm.sft import SFTSettings, TrainResult

torch.set_num_threads(1)
ROWS, HELD = some_rows(12), some_rows(8, seed=9)
SHORT = replace(STEADY, save_every_steps=2)  # six steps in two epochs
TEACHER = llama(24, 1, VOCABULARY).eval().requires_grad_(False)
LONGER = replace(STEADY, epochs=8)


def student(dropout: float = 0.1) -> Any:
    """With dropout, so that a continued run needs the right random numbers too."""
    model = llama(16, 0, VOCABULARY)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = dropout
    return model


def logits(folder: Path) -> Objective:
    return Logits(TEACHER, LogitDistillation(alpha=0.0), VOCABULARY)


def cached(folder: Path) -> Objective:
    store = TargetStore(folder / "targets", ROWS, Origin("tokenizer", "teacher"), TargetSettings(VOCABULARY))
    store.make(TEACHER)
    return Cached(store, alpha=0.0)


def hidden(folder: Path, share: float = 0.5) -> Objective:
    return Hidden(IntermediateMatching(student().config, TEACHER.config), logits(folder), share)


def cross_tokenizer(folder: Path) -> Objective:
    """Both happen to have one tokenizer; the method does not know."""
    rows = []
    for row in ROWS:
        tokens = [at for at, on in enumerate(row.supervised) if on and at]
        rows.append(AlignedRow(row.id, row.input_ids, row.input_ids, tokens[::2], tokens[::2], len(tokens)))
    return CrossTokenizer(TEACHER, rows, RealIds(VOCABULARY, VOCABULARY), alpha=0.5, temperature=1.0)


ANSWERS = OwnAnswers(0.5, max_new_tokens=12, temperature=1.0, stop_ids=frozenset({STOP}), max_length=40, seed=3)


def on_policy(folder: Path) -> Objective:
    return OnPolicy(Logits(TEACHER, LogitDistillation(alpha=0.0), VOCABULARY), ROWS, ANSWERS)


SAME_IDS: dict[str, Callable[[Path], Objective]] = {
    "logits": logits,
    "cached": cached,
    "hidden": hidden,
    "on_policy": on_policy,
}
SLOW = {True: (pytest.mark.slow,), False: ()}  # those that tests of the stage show by default
METHODS = {**SAME_IDS, "cross_tokenizer": cross_tokenizer}


def fit(
    model: Any,
    objective: Objective,
    folder: Path,
    settings: SFTSettings = SHORT,
    on_step: Callable[[int, int, dict[str, float]], None] = lambda step, steps, logs: None,
) -> TrainResult:
    return distil(model, ROWS, objective, settings=settings, checkpoint_dir=folder / "checkpoints", on_step=on_step)


def bytes_of(model: Any) -> str:
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize(
    "method",
    [pytest.param(SAME_IDS[name], id=name, marks=SLOW[name in ("hidden", "on_policy")]) for name in SAME_IDS],
)
def test_the_loss_and_the_distance_to_the_teacher_fall(method: Callable[[Path], Objective], tmp_path: Path) -> None:
    model, before = student(), bytes_of(TEACHER)
    distance = torch.tensor(row_divergence(model, TEACHER, HELD, VOCABULARY)).mean()
    curve = [loss for _, loss in fit(model, method(tmp_path), tmp_path, LONGER).loss_curve]
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])
    assert torch.tensor(row_divergence(model, TEACHER, HELD, VOCABULARY)).mean() < 0.9 * distance
    assert bytes_of(TEACHER) == before


@pytest.mark.parametrize(
    ("method", "last"),
    [
        *(pytest.param(method, 5, id=name, marks=SLOW[name != "on_policy"]) for name, method in METHODS.items()),
        pytest.param(lambda folder: hidden(folder, share=0.9), 3, id="hidden, in the first phase"),
        pytest.param(lambda folder: hidden(folder, share=0.7), 5, id="hidden, between the phases"),
        *(pytest.param(method, 2, id=f"{name}, early", marks=pytest.mark.slow) for name, method in METHODS.items()),
    ],
)
def test_an_interrupted_run_ends_with_the_bytes_of_an_uninterrupted_one(
    method: Callable[[Path], Objective], last: int, tmp_path: Path
) -> None:
    def stop(step: int, steps: int, logs: dict[str, float]) -> None:
        if step == last:
            raise KeyboardInterrupt

    whole, resumed = student(), student()
    expected = fit(whole, method(tmp_path / "whole"), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(student(), method(tmp_path / "c"), tmp_path / "c", on_step=stop)
    seen: list[int] = []
    result = fit(resumed, method(tmp_path / "c"), tmp_path / "c", on_step=lambda step, *_: seen.append(step))
    assert seen[0] == (last - 1) // 2 * 2 + 1
    assert weights_hash(resumed, tmp_path / "b") == weights_hash(whole, tmp_path / "a")
    assert result._replace(seconds=0) == expected._replace(seconds=0)


@pytest.mark.parametrize("method", [logits, hidden, pytest.param(cross_tokenizer, marks=pytest.mark.slow)])
def test_splitting_a_batch_into_accumulation_steps_changes_no_loss(
    method: Callable[[Path], Objective], tmp_path: Path
) -> None:
    def curve(batch_size: int, accumulation: int) -> list[float]:
        settings = replace(STEADY, batch_size=batch_size, gradient_accumulation_steps=accumulation)
        folder = tmp_path / f"{batch_size}x{accumulation}"
        return [loss for _, loss in fit(student(dropout=0), method(folder), folder, settings).loss_curve]

    whole = curve(8, 1)
    assert max(abs(a - b) for a, b in zip(curve(2, 4), whole, strict=True)) <= 1e-5


def test_a_batch_says_which_rows_it_holds(tmp_path: Path) -> None:
    class Spy(Logits):
        def loss(self, student: Any, batch: Batch, items: Tensor) -> Tensor:
            for number, ids in zip(batch["rows"].tolist(), batch["input_ids"].tolist(), strict=True):
                row = ROWS[number].input_ids
                seen.append(ids[: len(row)] == row)
            return super().loss(student, batch, items)

    seen: list[bool] = []
    fit(student(), Spy(TEACHER, LogitDistillation(), VOCABULARY), tmp_path)
    assert seen == [True] * 24


@pytest.mark.slow
def test_many_cached_draws_train_as_the_whole_distribution_does(tmp_path: Path) -> None:
    class OfOtherRows(Cached):
        def loss(self, student: Any, batch: Batch, items: Tensor) -> Tensor:
            return super().loss(student, {**batch, "rows": batch["rows"].roll(1)}, items)

    def distance(objective: Objective, name: str) -> float:
        model = student()
        fit(model, objective, tmp_path / name, LONGER)
        return fmean(row_divergence(model, TEACHER, ROWS, VOCABULARY))

    store = TargetStore(
        tmp_path / "targets", ROWS, Origin("tokenizer", "teacher"), TargetSettings(VOCABULARY, draws=255)
    )
    store.make(TEACHER)
    online = distance(logits(tmp_path), "online")
    assert distance(Cached(store, alpha=0.0), "cached") == pytest.approx(online, rel=0.05)
    assert distance(OfOtherRows(store, alpha=0.0), "others") > 1.1 * online


def test_projections_are_trained_checkpointed_and_no_part_of_the_student(tmp_path: Path) -> None:
    model, objective = student(), hidden(tmp_path)
    assert objective.module is not None
    before = {name: weight.clone() for name, weight in objective.module.state_dict().items()}
    result = fit(model, objective, tmp_path)
    after = objective.module.state_dict()
    assert before.keys() == after.keys() == {"embedding.weight", "layer.weight"}
    assert all((before[name] - after[name]).abs().max() > 1e-3 for name in before)
    assert model.state_dict().keys() == student().state_dict().keys()
    stored = load_file(tmp_path / "checkpoints" / "checkpoint-4" / "objective.safetensors")
    assert all(torch.equal(stored[name], after[name]) for name in after), "the second phase leaves them alone"
    first, second = ([point.loss for point in result.loss_curve][part] for part in (slice(3), slice(3, 6)))
    assert min(first) > 3 * max(second), "two losses of different size"


def test_the_second_phase_begins_with_an_optimizer_that_remembers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps_remembered(name: str) -> float:
        fit(student(), hidden(tmp_path), tmp_path / name)
        stored = torch.load(tmp_path / name / "checkpoints" / "checkpoint-6" / "optimizer.pt", weights_only=True)
        return float(stored["state"][0]["step"])

    assert steps_remembered("forgotten") == 3
    monkeypatch.setattr(Hidden, "begins_anew", lambda self, place: False)
    assert steps_remembered("kept") == 6


def test_the_distance_of_a_row_is_the_mean_over_its_supervised_tokens() -> None:
    model = student().eval()
    found = row_divergence(model, TEACHER, HELD, VOCABULARY, batch_size=3)
    for row, nats in zip(HELD, found, strict=True):
        with torch.no_grad():
            q, p = (m(input_ids=torch.tensor([row.input_ids])).logits[0, :-1].log_softmax(-1) for m in (model, TEACHER))
        wanted = (p.exp() * (p - q)).sum(-1)[torch.tensor(row.supervised[1:])].mean()
        assert nats == pytest.approx(float(wanted), rel=1e-4)
    assert max(row_divergence(TEACHER, TEACHER, HELD, VOCABULARY)) < 1e-6


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    broken = llama(24, 1, VOCABULARY).eval().requires_grad_(False)
    broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(PosttrainError, match="step 1: the loss is nan"):
        fit(student(), Logits(broken, LogitDistillation(), VOCABULARY), tmp_path)
