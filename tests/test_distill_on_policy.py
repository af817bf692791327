"""The student's own answers: whose they are, that they are the same again, and what is learnt from them."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distill_training import ANSWERS, ROWS, TEACHER, fit, on_policy, student
from tiny_llama import STEADY, STOP, VOCABULARY

from posttrain.lm.distillation.logit_loss import LogitDistillation
from posttrain.lm.distillation.objectives import Logits
from posttrain.lm.distillation.on_policy import OnPolicy, prompt_of, sample
from posttrain.lm.distillation.training import Batch, Place
from posttrain.lm.losses import IGNORED
from posttrain.lm.supervised_trainer import as_dataset, collate
from posttrain.lm.token_row import TokenRow

STUDENT = student().eval()
LOGITS = Logits(TEACHER, LogitDistillation(alpha=0.5), VOCABULARY)


def batch(*numbers: int) -> Batch:
    rows = as_dataset(ROWS)
    return {**collate([rows[number] for number in numbers]), "rows": torch.tensor(numbers)}


def prepared(step: int = 0, share: float = 1.0, model: Any = STUDENT, **answers: Any) -> Batch:
    objective = OnPolicy(LOGITS, ROWS, replace(ANSWERS, share=share, **answers))
    return objective.prepared(model, [batch(0, 3, 5)], Place(step, 10, 1))[0]


def test_the_share_of_batches_is_exact_and_spread_evenly() -> None:
    for share in (0.1, 0.25, 0.3, 0.5, 1.0):
        own = [replace(ANSWERS, share=share).is_own(number) for number in range(200)]
        assert sum(own) == round(200 * share)
        gaps = [at for at, on in enumerate(own) if on]
        assert max(b - a for a, b in pairwise(gaps)) <= 1 / share + 1
    assert "sampled" in prepared(1, share=0.5) and "sampled" not in prepared(0, share=0.5)


def test_a_sampled_batch_keeps_the_prompts_and_supervises_the_answers_alone() -> None:
    made = prepared()
    for at, number in enumerate((0, 3, 5)):
        prompt, length = prompt_of(ROWS[number]), int(made["tokens"][at])
        ids, labels = made["input_ids"][at].tolist(), made["labels"][at].tolist()
        assert ids[: len(prompt)] == prompt and length <= ANSWERS.max_length
        assert labels == [IGNORED] * len(prompt) + ids[len(prompt) : length] + [IGNORED] * (len(ids) - length)
        assert STOP not in ids[len(prompt) : length - 1]
        assert made["sampled"][at] == length - len(prompt) <= 12
    objective = OnPolicy(LOGITS, ROWS, ANSWERS)
    assert objective.items([made]) == made["sampled"].sum(), "and not the tokens of the rows' own answers"


def test_an_answer_ends_with_its_stop_or_where_there_is_no_more_room() -> None:
    everything = frozenset(range(VOCABULARY))
    assert prepared(stop_ids=everything)["sampled"].tolist() == [1, 1, 1]
    shortest = min(len(prompt_of(ROWS[number])) for number in (0, 3, 5))
    cut = prepared(stop_ids=frozenset({VOCABULARY - 1}), max_length=shortest + 3, max_new_tokens=99)
    assert int(cut["tokens"].max()) <= max(shortest + 3, *(len(prompt_of(ROWS[number])) for number in (0, 3, 5)))


def test_the_prompt_of_a_conversation_ends_before_its_last_answer() -> None:
    row = TokenRow("a", list(range(10, 18)), [False, False, True, True, False, True, True, False])
    assert prompt_of(row) == [10, 11, 12, 13, 14]


def test_samples_depend_on_weights_seed_step_and_rows_and_leave_the_generator_alone() -> None:
    torch.manual_seed(1)
    before, training = torch.get_rng_state(), STUDENT.training
    first = prepared()
    assert torch.equal(torch.get_rng_state(), before) and STUDENT.training == training
    torch.manual_seed(2)
    assert torch.equal(prepared()["input_ids"], first["input_ids"])
    others = [prepared(step=1), prepared(seed=4), prepared(model=TEACHER), prepared(temperature=3.0)]
    for other in others:
        assert other["input_ids"].shape != first["input_ids"].shape or not torch.equal(
            other["input_ids"], first["input_ids"]
        )


def test_a_padded_prompt_is_answered_as_if_it_stood_alone() -> None:
    cold = replace(ANSWERS, temperature=1e-4)
    prompts = [prompt_of(ROWS[number]) for number in (0, 3, 5)]
    assert len({len(prompt) for prompt in prompts}) > 1
    assert sample(STUDENT, prompts, cold, 1) == [sample(STUDENT, [prompt], cold, 2)[0] for prompt in prompts]


def test_only_the_rows_own_answers_have_a_cross_entropy() -> None:
    objective, given = OnPolicy(LOGITS, ROWS, ANSWERS), batch(0, 3)
    own = {**given, "sampled": torch.tensor([1, 1])}
    items = objective.items([given])
    alone = Logits(TEACHER, LogitDistillation(alpha=0.0), VOCABULARY).loss(STUDENT, given, items).item()
    mixed = LOGITS.loss(STUDENT, given, items).item()
    assert objective.loss(STUDENT, own, items).item() == pytest.approx(alone)
    assert objective.loss(STUDENT, given, items).item() == pytest.approx(mixed) and abs(mixed - alone) > 1e-3


@pytest.mark.parametrize("bf16", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_run_counts_what_the_student_wrote(bf16: bool, tmp_path: Path) -> None:
    result = fit(student(), on_policy(tmp_path), tmp_path, replace(STEADY, bf16=bf16, gradient_accumulation_steps=2))
    assert 0 < result.sampled_tokens < result.supervised_tokens
    assert result.steps == 4 and len(result.loss_curve) == 4
