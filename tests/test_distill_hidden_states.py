"""Intermediate matching: what its loss is, which positions and layers it sees, and where its projections live."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.hidden_states import (
    IntermediateMatching,
    States,
    intermediate_loss,
    states_of,
    uniform_layer_map,
)
from posttrain.lm.distillation.layer_init import student_from_layers
from posttrain.lm.quiet import quiet_libraries

quiet_libraries()
LENGTH, BATCH = 9, 3
either = pytest.mark.parametrize("attention", [False, True], ids=["hidden states", "and attention maps"])


def llama(layers: int = 4, size: int = 32, heads: int = 4, seed: int = 0, eager: bool = True) -> Any:
    torch.manual_seed(seed)
    shape = dict(hidden_size=size, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=heads)
    attention = "eager" if eager else "sdpa"
    config = LlamaConfig(**shape, vocab_size=40, attn_implementation=attention, initializer_range=0.1)
    return LlamaForCausalLM(config).eval()


TEACHER, STUDENT = llama(), llama(layers=2, size=16, heads=2, seed=1)


def matching(attention: bool = False, **kwargs: Any) -> IntermediateMatching:
    return IntermediateMatching(STUDENT.config, TEACHER.config, attention=attention, **kwargs)


def batch() -> tuple[Tensor, Tensor]:
    """Ids and which are real: rows of 9, 6 and 3 tokens."""
    ids = torch.randint(0, 40, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    return ids, torch.arange(LENGTH)[None] < torch.tensor([[9], [6], [3]])


def loss_of(match: IntermediateMatching, ids: Tensor, real: Tensor, mask: Tensor | None = None, **kw: Any) -> float:
    return intermediate_loss(match, STUDENT, TEACHER, ids, real, mask, **kw).item()


# what is computed


@torch.no_grad()
def by_hand(match: IntermediateMatching, ids: Tensor, real: Tensor) -> float:
    """The definition, row by row without any padding, position by position."""
    total = 0.0
    for row, kept in zip(ids, real, strict=True):
        alone = row[kept][None]
        s = STUDENT(input_ids=alone, output_hidden_states=True, output_attentions=True)
        t = TEACHER(input_ids=alone, output_hidden_states=True, output_attentions=True)
        for m, n in match.layer_map:
            weight = (match.layer if m else match.embedding).weight
            for i in range(alone.shape[1]):
                gap = weight @ s.hidden_states[m][0, i] - t.hidden_states[n][0, i]
                total += float(gap.square().sum() / len(gap))
                if match.attention and m:
                    maps = s.attentions[m - 1][0, :, i].mean(0) - t.attentions[n - 1][0, :, i].mean(0)
                    total += float(maps.square().sum() / (i + 1))
    return total / int(real.sum())


@either
def test_the_loss_is_the_sum_of_mean_squared_errors_over_pairs_and_real_positions(attention: bool) -> None:
    match, (ids, real) = matching(attention), batch()
    assert loss_of(match, ids, real) == pytest.approx(by_hand(match, ids, real), abs=1e-5)
    other = matching(attention, layer_map=[(0, 0), (1, 1), (2, 4)])
    assert abs(loss_of(other, ids, real) - by_hand(match, ids, real)) > 1e-4


def test_the_uniform_map_spreads_the_students_layers_over_the_teachers() -> None:
    assert uniform_layer_map(4, 12) == [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12)]
    assert uniform_layer_map(3, 8) == [(0, 0), (1, 2), (2, 5), (3, 8)]
    assert matching().layer_map == [(0, 0), (1, 2), (2, 4)]


def test_heads_are_compared_one_by_one_where_both_have_as_many() -> None:
    """Exchanged heads have the same average: a loss sees them only where it does not average."""
    maps = torch.rand(1, 2, 3, 3, generator=torch.Generator().manual_seed(0)).tril()
    real, states = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3, 32)
    equal = IntermediateMatching(TEACHER.config, TEACHER.config, [(1, 1)], attention=True)
    student, exchanged = States((states,) * 2, (maps,)), States((states,) * 2, (maps.flip(1),))
    assert equal(student, exchanged, real).item() > 1e-3
    four = States((states,) * 2, (maps.flip(1).repeat(1, 2, 1, 1),))
    assert equal(student, four, real).item() == pytest.approx(0, abs=1e-12)
    assert equal(student, States((states,) * 2, (four.attentions[0] + 0.5,)), real).item() > 1e-3


# K3: the reduction


@either
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(side: str, attention: bool) -> None:
    match, (ids, _) = matching(attention), batch()
    pad = torch.full((BATCH, 4), 7)
    longer = torch.cat([ids, pad] if side == "right" else [pad, ids], 1)
    real = torch.cat([pad < 0, ids >= 0] if side == "left" else [ids >= 0, pad < 0], 1)
    whole = torch.ones_like(ids, dtype=torch.bool)
    expected = loss_of(match, ids, whole)
    assert loss_of(match, longer, real, real.long()) == pytest.approx(expected, rel=1e-6)
    if side == "right":
        assert loss_of(match, longer, real) == pytest.approx(expected, rel=1e-6), "no mask is needed here"
    else:
        assert abs(loss_of(match, longer, real) - expected) > 1e-4, "without a mask the rows look at the padding"
    everywhere = torch.ones_like(real)
    assert abs(loss_of(match, longer, everywhere, real.long()) - expected) > 1e-4, "padding counted as text"


def test_a_mean_over_the_width_of_attention_maps_would_change_with_padding() -> None:
    ids, real = batch()
    longer, longer_real = torch.nn.functional.pad(ids, (0, 4)), torch.nn.functional.pad(real, (0, 4))

    @torch.no_grad()
    def naive(ids: Tensor, real: Tensor) -> float:
        s, t = (states_of(m, ids, attentions=True).attentions[0].mean(1)[real] for m in (STUDENT, TEACHER))
        return float((s - t).square().mean())

    match = IntermediateMatching(STUDENT.config, TEACHER.config, [(1, 1)], attention=True)
    assert loss_of(match, longer, longer_real) == pytest.approx(loss_of(match, ids, real), rel=1e-6)
    assert naive(longer, longer_real) < 0.9 * naive(ids, real)


@either
def test_a_doubled_batch_and_accumulation_splits_change_nothing(attention: bool) -> None:
    match, (ids, real) = matching(attention), batch()
    whole, count = loss_of(match, ids, real), int(real.sum())
    assert loss_of(match, torch.cat([ids, ids]), torch.cat([real, real])) == pytest.approx(whole, rel=1e-6)
    rows = range(BATCH)
    split = sum(loss_of(match, ids[i : i + 1], real[i : i + 1], num_items_in_batch=count) for i in rows)
    assert split == pytest.approx(whole, rel=1e-6)
    means = sum(loss_of(match, ids[i : i + 1], real[i : i + 1]) for i in rows) / BATCH
    assert abs(means - whole) > 1e-4, "a mean of the rows' means weighs short rows more"


# K4: nothing to learn from oneself


@either
def test_the_loss_and_its_gradient_are_zero_where_student_and_teacher_are_one(attention: bool) -> None:
    student, (ids, real) = copy.deepcopy(TEACHER), batch()
    match = IntermediateMatching(student.config, TEACHER.config, attention=attention)
    assert list(match.parameters()) == [], "equal sizes need no projection"
    loss = intermediate_loss(match, student, TEACHER, ids, real)
    loss.backward()  # type: ignore[no-untyped-call]
    grads = [weight.grad for weight in student.parameters() if weight.grad is not None]
    assert loss.item() == 0 and grads and not any(grad.any() for grad in grads)
    with torch.no_grad():
        student.model.layers[1].self_attn.q_proj.weight.add_(0.1)
    assert intermediate_loss(match, student, TEACHER, ids, real).item() > 1e-6


@either
def test_the_teacher_gets_no_gradient_and_student_and_projections_do(attention: bool) -> None:
    student, teacher, match, (ids, real) = copy.deepcopy(STUDENT), copy.deepcopy(TEACHER), matching(attention), batch()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    rates = torch.optim.Adam([*student.parameters(), *match.parameters()], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = intermediate_loss(match, student, teacher, ids, real)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        assert all(weight.grad is not None and weight.grad.any() for weight in match.parameters())
        rates.step()
        rates.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_student_of_all_its_teachers_layers_starts_at_zero_and_one_of_some_does_not() -> None:
    ids, real = batch()
    found = []
    for layers in ([0, 1, 2, 3], [0, 3]):
        student = student_from_layers(TEACHER, layers)
        match = IntermediateMatching(student.config, TEACHER.config)
        found.append(intermediate_loss(match, student, TEACHER, ids, real).item())
    assert found[0] == 0 and found[1] > 1e-3


# K5: which positions count


@either
def test_a_teacher_changed_at_a_masked_position_changes_nothing_and_at_each_real_one_it_does(attention: bool) -> None:
    match, (ids, real) = matching(attention, layer_map=[(0, 0), (1, 3)]), batch()
    student, teacher = (states_of(model, ids, attentions=attention) for model in (STUDENT, TEACHER))
    expected = match(student, teacher, real).item()
    for row in range(BATCH):
        for i in range(LENGTH):
            for part in ["hidden", "attentions"] if attention else ["hidden"]:
                changed = [tensor.clone() for tensor in teacher.hidden], [t.clone() for t in teacher.attentions]
                if part == "hidden":
                    changed[0][3][row, i] = float("nan") if not real[row, i] else 5.0
                else:
                    changed[1][2][row, :, i] = float("nan") if not real[row, i] else 5.0
                found = match(student, States(tuple(changed[0]), tuple(changed[1])), real).item()
                assert (found == expected) == (not real[row, i])


# the projections


def test_projections_travel_with_a_checkpoint_and_not_with_the_student(tmp_path: Path) -> None:
    match, (ids, real) = matching(seed=3), batch()
    save_file(match.state_dict(), tmp_path / "matching.safetensors")
    fresh = matching(seed=4)
    expected = loss_of(match, ids, real)
    assert abs(loss_of(fresh, ids, real) - expected) > 1e-4, "a checkpoint without them goes on from elsewhere"
    fresh.load_state_dict(load_file(tmp_path / "matching.safetensors"))
    assert loss_of(fresh, ids, real) == expected
    assert {name: tuple(weight.shape) for name, weight in match.named_parameters()} == {
        "embedding.weight": (32, 16),
        "layer.weight": (32, 16),
    }
    before = set(STUDENT.state_dict())
    intermediate_loss(match, STUDENT, TEACHER, ids, real)
    STUDENT.save_pretrained(tmp_path / "student")
    assert set(AutoModelForCausalLM.from_pretrained(tmp_path / "student").state_dict()) == before


def test_projections_are_drawn_from_their_seed_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = matching(seed=3), matching(seed=3), matching(seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.layer.weight, again.layer.weight)
    assert not torch.equal(first.layer.weight, other.layer.weight)
    assert not torch.equal(first.layer.weight, first.embedding.weight)
    square = first.layer.weight.T @ first.layer.weight
    assert torch.allclose(square, torch.eye(16), atol=1e-5), "lengths and angles are kept"


# errors


def test_attention_maps_of_a_model_that_keeps_none_are_refused() -> None:
    ids, real = batch()
    fast = llama(eager=False)
    match = IntermediateMatching(fast.config, TEACHER.config, attention=True)
    with pytest.raises(PosttrainError, match="computes attention with sdpa, which keeps no maps; eager is allowed"):
        intermediate_loss(match, fast, TEACHER, ids, real)
    fast.set_attn_implementation("eager")
    assert intermediate_loss(match, fast, TEACHER, ids, real).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("pair", [(3, 1), (1, 5), (-1, 1), (1, 0), (0, 1)])
def test_a_pair_of_layers_that_are_not_there_is_refused(pair: tuple[int, int]) -> None:
    message = f"layer {pair[0]} follows layer {pair[1]}; the student's layers 1 to 2 may follow the teacher's 1 to 4"
    with pytest.raises(PosttrainError, match=message):
        matching(layer_map=[(0, 0), pair])


def test_an_empty_map_and_a_batch_of_padding_are_refused() -> None:
    with pytest.raises(PosttrainError, match="layer_map: no pairs"):
        matching(layer_map=[])
    ids, real = batch()
    with pytest.raises(PosttrainError, match="batch of 3 rows: no real token"):
        intermediate_loss(matching(), STUDENT, TEACHER, ids, torch.zeros_like(real))


def test_a_teacher_in_training_mode_is_refused() -> None:
    ids, real = batch()
    with pytest.raises(PosttrainError, match="teacher: it is in training mode"):
        intermediate_loss(matching(), STUDENT, copy.deepcopy(TEACHER).train(), ids, real)
