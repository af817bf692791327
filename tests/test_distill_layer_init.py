"""A student made of a teacher's layers: the same weights in fewer layers, saved and loaded as any model."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from posttrain.errors import PosttrainError
from posttrain.lm.distillation.layer_init import evenly_spaced, student_from_layers
from posttrain.lm.quiet import quiet_libraries
from posttrain.lm.sft import add_lora

quiet_libraries()

LAYERS = 6
SHAPE = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=LAYERS, num_attention_heads=2, vocab_size=40)


def llama(tied: bool = True) -> Any:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=1, tie_word_embeddings=tied))


def qwen2() -> Any:
    kinds = ["full_attention", "sliding_attention"] * 3
    config = Qwen2Config(**SHAPE, num_key_value_heads=1, use_sliding_window=True, sliding_window=3, layer_types=kinds)
    return Qwen2ForCausalLM(config)


def gemma3() -> Any:
    return Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, num_key_value_heads=1, head_dim=8, sliding_window=3))


def qwen3_moe(dense: list[int]) -> Any:
    config = Qwen3MoeConfig(
        **SHAPE,
        num_key_value_heads=1,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        mlp_only_layers=dense,
    )
    return Qwen3MoeForCausalLM(config)


MODELS: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "llama, untied": lambda: llama(tied=False),
    "qwen2 with sliding layers": qwen2,
    "gemma3 with sliding layers": gemma3,
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=LAYERS, n_head=2, vocab_size=40)),
    "mixture of experts": lambda: qwen3_moe([]),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def teacher_of(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    teacher = make().eval()
    with torch.no_grad():  # as a trained model: no norm is all ones, no layer close to nothing
        for weight in teacher.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return teacher


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(input_ids=torch.arange(3, 23)[None], use_cache=False).logits
    return result


@every_model
def test_all_layers_give_the_teachers_logits_bit_for_bit(make: Callable[[], Any]) -> None:
    teacher = teacher_of(make)
    assert torch.equal(logits(student_from_layers(teacher, range(LAYERS))), logits(teacher))
    assert not torch.equal(logits(student_from_layers(teacher, range(LAYERS - 1))), logits(teacher))
    assert not torch.equal(logits(student_from_layers(teacher, range(1, LAYERS))), logits(teacher))


@every_model
def test_a_student_computes_what_the_teacher_does_with_its_other_layers_taken_out(make: Callable[[], Any]) -> None:
    teacher, chosen = teacher_of(make), [0, 3, 5]
    student = student_from_layers(teacher, chosen)
    shorter = copy.deepcopy(teacher)
    for name, module in teacher.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == LAYERS:
            parent = shorter.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.ModuleList(module[i] for i in chosen))
    shorter.config.num_hidden_layers = len(chosen)
    if isinstance(teacher, Qwen2ForCausalLM | Gemma3ForCausalLM):
        shorter.config.layer_types = [teacher.config.layer_types[i] for i in chosen]
        wrong = copy.deepcopy(shorter)
        wrong.config.layer_types = list(reversed(shorter.config.layer_types))
        assert not torch.equal(logits(student), logits(wrong)), "the kinds of the layers matter here"
    assert torch.equal(logits(student), logits(shorter))
    assert not torch.equal(logits(student), logits(student_from_layers(teacher, [0, 2, 5])))


@every_model
def test_a_student_saved_and_loaded_gives_the_same_logits(make: Callable[[], Any], tmp_path: Path) -> None:
    teacher = teacher_of(make)
    student = student_from_layers(teacher, [0, 3, 5])
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded), logits(student))
    assert loaded.config.num_hidden_layers == 3
    tied = [m.get_input_embeddings().weight is m.get_output_embeddings().weight for m in (teacher, student, loaded)]
    assert tied == [teacher.config.tie_word_embeddings] * 3
    with torch.no_grad():
        next(loaded.parameters()).add_(1e-3)
    assert not torch.equal(logits(loaded), logits(student))


def test_training_a_student_leaves_its_teacher_alone() -> None:
    teacher = teacher_of(llama)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = student_from_layers(teacher, [0, 5])
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert teacher.config.num_hidden_layers == LAYERS
    assert not torch.equal(student.state_dict()["model.norm.weight"], before["model.norm.weight"])


def test_dtype_mode_attention_and_generation_settings_are_the_teachers() -> None:
    teacher = teacher_of(llama).to(torch.bfloat16)
    teacher.generation_config.eos_token_id = 7
    student = student_from_layers(teacher, [0, 5])
    assert (student.dtype, student.training, student.generation_config.eos_token_id) == (torch.bfloat16, False, 7)
    student.generation_config.eos_token_id = 8
    assert teacher.generation_config.eos_token_id == 7
    assert student_from_layers(teacher.train(), [0, 5]).training
    assert student.config._attn_implementation == "sdpa"
    teacher.set_attn_implementation("eager")
    assert student_from_layers(teacher, [0, 5]).config._attn_implementation == "eager"


def test_a_config_points_at_no_directory_of_the_teacher(tmp_path: Path) -> None:
    teacher_of(llama).save_pretrained(tmp_path)
    teacher = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert teacher.config._name_or_path == str(tmp_path)
    assert student_from_layers(teacher, [0, 5]).config._name_or_path == ""


def test_evenly_spaced_layers_keep_the_first_and_the_last() -> None:
    assert evenly_spaced(3, 6) == [0, 2, 5]
    assert evenly_spaced(4, 10) == [0, 3, 6, 9]
    assert evenly_spaced(1, 6) == [0]
    for layers in range(1, 20):
        for count in range(1, layers + 1):
            chosen = evenly_spaced(count, layers)
            assert sorted(set(chosen)) == chosen and len(chosen) == count and chosen[0] == 0
            assert count == 1 or chosen[-1] == layers - 1
    for count in (0, 7):
        with pytest.raises(PosttrainError, match=f"{count} of a teacher's 6 layers; 1 to 6 are allowed"):
            evenly_spaced(count, 6)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 6], "no layer 6; numbers from 0 to 5, rising"),
        ([-1, 2], "no layer -1"),
        ([0, 0, 2], "each once"),
        ([2, 0], "rising order"),
        ([], "rising order"),
    ],
)
def test_layers_that_cannot_be_copied_are_refused(layers: list[int], message: str) -> None:
    with pytest.raises(PosttrainError, match=message):
        student_from_layers(teacher_of(llama), layers)


def test_a_model_without_exactly_one_list_of_layers_is_refused() -> None:
    teacher = teacher_of(llama)
    teacher.model.more = nn.ModuleList([nn.Linear(2, 2)])
    with pytest.raises(PosttrainError, match=r"LlamaForCausalLM has 2 lists of layers \(layers, more\)"):
        student_from_layers(teacher, [0, 5])
    teacher.model.layers = teacher.model.more = None
    with pytest.raises(PosttrainError, match=r"has 0 lists of layers \(none\)"):
        student_from_layers(teacher, [0, 5])
    with pytest.raises(PosttrainError, match="no output head"):
        student_from_layers(llama().model, [0, 5])


def test_a_layer_that_its_new_place_would_change_is_refused() -> None:
    """A dense layer among experts is named by its number in the config, which does not move with it."""
    teacher = teacher_of(lambda: qwen3_moe([3]))
    assert len(student_from_layers(teacher, [0, 1, 2, 3]).model.layers) == 4
    with pytest.raises(PosttrainError, match=r"layers \[0, 3\]: .* cannot be built with these .*Missing key"):
        student_from_layers(teacher, [0, 3])


def test_a_layer_with_the_same_weights_but_another_window_is_refused() -> None:
    teacher = teacher_of(qwen2)
    student_from_layers(teacher, [0, 3])
    teacher.model.layers[3].self_attn.sliding_window = None
    with pytest.raises(PosttrainError, match=r"as layer 1 its self_attn\.sliding_window would be 3 in place of None"):
        student_from_layers(teacher, [0, 3])


def test_a_teacher_with_an_adapter_is_refused() -> None:
    with pytest.raises(PosttrainError, match="Merge the adapter first"):
        student_from_layers(add_lora(teacher_of(llama), r=2, lora_alpha=2), [0])


def test_an_encoder_and_decoder_together_are_refused() -> None:
    config = BartConfig(
        d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2
    )
    with pytest.raises(PosttrainError, match="has 2 lists of layers"):
        student_from_layers(BartForConditionalGeneration(config), [0])
