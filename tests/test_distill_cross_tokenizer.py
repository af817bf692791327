"""Universal logit distillation: where two tokenizers meet, and what is compared there."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data_gen.story import tell
from posttrain.errors import PosttrainError
from posttrain.lm.chat import TEMPLATE, ChatFormat, content_encoder
from posttrain.lm.distillation.cross_tokenizer import (
    NOWHERE,
    AlignedBatch,
    AlignedRow,
    RealIds,
    align,
    aligned_share,
    collate,
    prefix_lengths,
    sorted_distance,
    spell,
    universal_logit_loss,
)
from posttrain.lm.models import load_tokenizer
from posttrain.lm.tokenizer import END, GNARLY, PAD, train_tokenizer

CHATML = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n"
    "{%- if message.role == 'assistant' -%}{% generation %}{{ message.content }}<|im_end|>\n{% endgeneration %}"
    "{%- else -%}{{ message.content }}<|im_end|>\n{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)
STORIES = [tell(1, i).text for i in range(60)]
TALKS: dict[str, list[dict[str, str]]] = {
    str(i): [
        {"role": "user", "content": f"A story, number {i}."},
        {"role": "assistant", "content": story[: 40 + 25 * i]},
    ]
    for i, story in enumerate(STORIES[:3])
}


def byte_level() -> Any:
    """Our own kind: byte-level BPE, our template."""
    bpe = train_tokenizer(STORIES, 320)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=PAD)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def pieces() -> Any:
    """Another kind: pieces that carry their space, bytes for unknown characters, ChatML."""
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    bpe.decoder = decoders.Sequence(steps)
    control = ["<unk>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    bpe.train_from_iterator(STORIES, trainers.BpeTrainer(vocab_size=500, special_tokens=control, show_progress=False))
    spec = json.loads(bpe.to_str())  # training takes bytes only as control tokens, and ordinary ones they are
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)), eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    return tokenizer


OURS, THEIRS = byte_level(), pieces()
STUDENT_CHAT, TEACHER_CHAT = ChatFormat(OURS, "student"), ChatFormat(THEIRS, "teacher")
SIZES = RealIds(len(OURS), len(THEIRS))


def llama(vocabulary: int, seed: int = 0, size: int = 16, tied: bool = False) -> Any:
    torch.manual_seed(seed)
    shape = dict(hidden_size=size, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    config = LlamaConfig(**shape, vocab_size=vocabulary, tie_word_embeddings=tied, initializer_range=0.3)
    return LlamaForCausalLM(config).eval()


STUDENT, TEACHER = llama(SIZES.student), llama(SIZES.teacher, seed=1, size=32)


def rows_of(
    talks: Any = TALKS, student: ChatFormat = STUDENT_CHAT, teacher: ChatFormat = TEACHER_CHAT
) -> list[AlignedRow]:
    return [align(a, b) for a, b in zip(spell(student, talks), spell(teacher, talks), strict=True)]


ROWS = rows_of()
BATCH = collate(ROWS)


def loss_of(batch: AlignedBatch = BATCH, student: Any = STUDENT, teacher: Any = TEACHER, **kwargs: Any) -> float:
    return universal_logit_loss(student, teacher, batch, **{"real_ids": SIZES, **kwargs}).item()


# where both have read the same text


def wrong_prefixes(encoder: Tokenizer, texts: Iterable[str], lengths: Callable[..., list[int]]) -> tuple[int, int]:
    """How many marked prefixes there are, and how many of them do not decode to the text that they claim."""
    marked = wrong = 0
    for text in texts:
        encoded = encoder.encode(text, add_special_tokens=False)
        for k, length in enumerate(lengths(encoded.offsets, len(text))):
            if length != NOWHERE:
                read = encoder.decode(encoded.ids[:k], skip_special_tokens=False)
                marked, wrong = marked + 1, wrong + (read != text[:length])
    return marked, wrong


def naive_lengths(offsets: list[tuple[int, int]], size: int) -> list[int]:
    return [0, *(end for _, end in offsets)]


PLAIN = [" ".join(text.split()) for text in STORIES[:5]]
FOREIGN = ["Tom said: 日本語 and 😀!", "a café of 👩‍🚀s", "ÅÅÅ é"]


@pytest.mark.parametrize("tokenizer", [OURS, THEIRS], ids=["byte level", "pieces"])
def test_a_marked_prefix_decodes_to_the_characters_it_claims(tokenizer: Any) -> None:
    encoder = content_encoder(tokenizer.backend_tokenizer)
    marked, wrong = wrong_prefixes(encoder, [*PLAIN, *FOREIGN], prefix_lengths)
    assert marked > 100 and wrong == 0
    assert wrong_prefixes(encoder, FOREIGN, naive_lengths)[1] > 0, "inside a character nothing has been read"


def test_gnarly_text_is_marked_right_where_decoding_gives_it_back() -> None:
    assert wrong_prefixes(content_encoder(OURS.backend_tokenizer), GNARLY, prefix_lengths)[1] == 0


def test_a_real_tokenizer_is_marked_right(stories260k: Path) -> None:
    encoder = content_encoder(load_tokenizer(stories260k).backend_tokenizer)
    marked, wrong = wrong_prefixes(encoder, [*PLAIN, *FOREIGN], prefix_lengths)
    assert marked > 100 and wrong == 0


def test_prefixes_by_hand() -> None:
    assert prefix_lengths([(0, 3), (3, 7)], 7) == [0, 3, 7]
    assert prefix_lengths([(0, 1), (0, 1), (0, 1), (1, 4)], 4) == [0, NOWHERE, NOWHERE, 1, 4]
    assert prefix_lengths([(0, 3), (4, 7)], 7) == [0, 3, 7], "a tokenizer that drops the space has read it or not"
    assert prefix_lengths([(0, 3), (0, 0), (3, 5)], 5) == [0, NOWHERE, 3, 5], "an inserted token gives nothing back"
    assert prefix_lengths([], 0) == [0]


def test_aligned_tokens_follow_the_same_text_and_all_common_boundaries_are_aligned() -> None:
    for row, talk in zip(ROWS, TALKS.values(), strict=True):
        answer = talk[1]["content"]
        start, begin = row.student_tokens[0], row.teacher_tokens[0]
        read = []
        for ours, theirs in zip(row.student_tokens, row.teacher_tokens, strict=True):
            left = OURS.decode(row.student_ids[start:ours])
            assert left == THEIRS.decode(row.teacher_ids[begin:theirs])
            assert answer.startswith(left)
            read.append(left)
        assert read[0] == "" and read[-1] == answer, "the first token and the stop are aligned"
        cuts = [
            {tokenizer.decode(ids[first:k]) for k in range(first, last + 1)}
            for tokenizer, ids, first, last in (
                (OURS, row.student_ids, start, row.student_tokens[-1]),
                (THEIRS, row.teacher_ids, begin, row.teacher_tokens[-1]),
            )
        ]
        assert set(read) == cuts[0] & cuts[1] and cuts[0] != cuts[1]


def test_the_share_is_one_with_equal_tokenizers_and_less_with_others() -> None:
    assert aligned_share(rows_of(teacher=STUDENT_CHAT)) == 1
    assert 0.1 < aligned_share(ROWS) < 0.9
    counts = [sum(STUDENT_CHAT.row(name, talk).supervised) for name, talk in TALKS.items()]
    assert [row.supervised for row in ROWS] == counts


def test_other_texts_are_refused() -> None:
    """Also where the tokens would align by chance: a letter of one answer, or of one prompt, is another."""
    for turn in (0, 1):
        talk = [dict(message) for message in TALKS["0"]]
        talk[turn]["content"] = "X" + talk[turn]["content"][1:]
        with pytest.raises(PosttrainError, match=r"row 0: the student has .* the same conversation is needed"):
            align(spell(STUDENT_CHAT, TALKS)[0], spell(TEACHER_CHAT, {"0": talk})[0])


def test_each_answer_of_a_conversation_is_aligned_on_its_own() -> None:
    turns = [("user", "Hi."), ("assistant", "Hello there."), ("user", "Bye."), ("assistant", "Bye, bye!")]
    talk = [{"role": role, "content": content} for role, content in turns]
    (row,) = rows_of({"0": talk})
    text = OURS.decode([row.student_ids[i] for i in row.student_tokens])
    assert text.count(END) == 2 and sum(row.teacher_ids[i] == THEIRS.eos_token_id for i in row.teacher_tokens) == 2
    first = [i for i in row.student_tokens if i < row.student_ids.index(STUDENT_CHAT.tokenizer.eos_token_id, 8)]
    assert OURS.decode(row.student_ids[first[0] :]).startswith("Hello there.")


def with_template(template: str) -> ChatFormat:
    tokenizer = pieces()
    tokenizer.chat_template = template
    return ChatFormat(tokenizer, "teacher")


def test_what_a_template_writes_round_an_answer_is_not_aligned() -> None:
    thinking = with_template(CHATML.replace("{% generation %}", "{% generation %}(no thoughts) "))
    rows = rows_of(teacher=thinking)
    assert [row.student_tokens for row in rows] == [row.student_tokens for row in ROWS]
    for row, plain in zip(rows, ROWS, strict=True):
        assert [row.teacher_ids[i] for i in row.teacher_tokens] == [plain.teacher_ids[i] for i in plain.teacher_tokens]
    assert rows[0].teacher_tokens != ROWS[0].teacher_tokens


def test_a_template_that_runs_answers_together_is_refused() -> None:
    bare = with_template(
        "{%- for m in messages -%}{%- if m.role == 'assistant' -%}{% generation %}{{ m.content }}<|im_end|>"
        "{% endgeneration %}{%- else -%}{{ m.content }}{%- endif -%}{%- endfor -%}"
    )
    talk = [{"role": "user", "content": "Hi."}, *[{"role": "assistant", "content": "Yes."}] * 2]
    with pytest.raises(PosttrainError, match="row 0: teacher renders 1 supervised stretches for 2 answers"):
        spell(bare, {"0": talk})


# what is compared there


def test_the_distance_is_what_a_hand_computes() -> None:
    logits = [torch.tensor([[0.2, 0.7, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()]
    for teacher, student in (logits, reversed(logits)):
        loss = sorted_distance(teacher_logits=teacher, student_logits=student).loss.item()
        assert loss == pytest.approx(0.2 + 0.3 + 0.1, abs=1e-6)


@pytest.mark.parametrize("sizes", [(7, 7), (5, 9), (9, 5)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_loss_and_slope_are_those_of_the_formula(sizes: tuple[int, int], temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = (torch.randn(6, size, dtype=torch.float64, requires_grad=True) for size in sizes)
    width = max(sizes)
    tops = []
    for logits in (student, teacher):
        ranked = torch.softmax(logits / temperature, -1).sort(-1, descending=True).values
        tops.append(torch.cat([ranked, torch.zeros(6, width - ranked.shape[1], dtype=torch.float64)], 1))
    expected = (tops[0] - tops[1]).abs().sum()
    (slope,) = torch.autograd.grad(expected, student)
    found = sorted_distance(teacher_logits=teacher, student_logits=student, temperature=temperature)
    assert found.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(found.slope, slope, atol=1e-12)
    other = sorted_distance(teacher_logits=teacher, student_logits=student, temperature=temperature + 1)
    assert not torch.allclose(other.slope, slope, atol=1e-3)


def unsorted_distance(student: Tensor, teacher: Tensor) -> float:
    width = min(student.shape[1], teacher.shape[1])
    p, q = (torch.softmax(logits, -1)[:, :width] for logits in (student, teacher))
    return float((p - q).abs().sum())


def test_the_order_of_the_teachers_vocabulary_does_not_matter() -> None:
    exchanged = llama(SIZES.teacher, seed=1, size=32)
    order = torch.randperm(SIZES.teacher, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exchanged.lm_head.weight.copy_(TEACHER.lm_head.weight[order])
    assert loss_of(teacher=exchanged) == pytest.approx(loss_of(), rel=1e-6)
    student, teacher = torch.randn(4, 6), torch.randn(4, 8)
    assert abs(unsorted_distance(student, teacher) - unsorted_distance(student, teacher.flip(1))) > 1e-3
    with torch.no_grad():
        exchanged.lm_head.weight.mul_(0.5)
    assert abs(loss_of(teacher=exchanged) - loss_of()) > 1e-2, "another distribution does matter"


def test_padded_rows_of_a_head_are_not_compared() -> None:
    wider = [llama(SIZES.student + 9), llama(SIZES.teacher + 7, seed=1, size=32)]
    for wide, narrow in zip(wider, (STUDENT, TEACHER), strict=True):
        state = {
            k: v if v.shape == narrow.state_dict()[k].shape else narrow.state_dict()[k]
            for k, v in wide.state_dict().items()
        }
        with torch.no_grad():
            for name, weight in wide.named_parameters():
                weight[: len(state[name])] = narrow.state_dict()[name]
    assert loss_of(student=wider[0], teacher=wider[1]) == pytest.approx(loss_of(), rel=1e-6)
    unaware = RealIds(SIZES.student + 9, SIZES.teacher + 7)
    assert abs(loss_of(student=wider[0], teacher=wider[1], real_ids=unaware) - loss_of()) > 1e-4
    loss = universal_logit_loss(wider[0], wider[1], BATCH, real_ids=SIZES)
    loss.backward()  # type: ignore[no-untyped-call]
    grad = wider[0].lm_head.weight.grad
    assert not grad[SIZES.student :].any() and grad[: SIZES.student].any()


def test_a_head_smaller_than_its_tokenizer_is_refused() -> None:
    for sizes, message in ((RealIds(999, 5), "student: its output head has"), (RealIds(5, 999), "teacher: its output")):
        with pytest.raises(PosttrainError, match=message):
            loss_of(real_ids=sizes)


# K3: the reduction


def test_padding_a_doubled_batch_chunks_and_splits_change_nothing() -> None:
    whole, count = loss_of(), int(BATCH.student_positions.sum())
    wide = [nn.functional.pad(tensor, (0, 5)) for tensor in BATCH]
    assert loss_of(AlignedBatch(*wide)) == pytest.approx(whole, abs=1e-6)
    assert loss_of(collate([*ROWS, *ROWS])) == pytest.approx(whole, abs=1e-6)
    assert loss_of(chunk=7) == pytest.approx(whole, abs=1e-6)
    split = sum(loss_of(collate([row]), num_items_in_batch=count) for row in ROWS)
    assert split == pytest.approx(whole, abs=1e-6)
    assert abs(sum(loss_of(collate([row])) for row in ROWS) / len(ROWS) - whole) > 1e-4, "a mean of means"


# K4: nothing to learn from oneself


@pytest.mark.parametrize("tied", [False, True])
def test_loss_and_gradient_are_zero_where_models_and_tokenizers_are_one(tied: bool) -> None:
    batch = collate(rows_of(teacher=STUDENT_CHAT))
    sizes = RealIds(SIZES.student, SIZES.student)
    student, teacher = llama(SIZES.student, tied=tied), llama(SIZES.student, tied=tied)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    loss = universal_logit_loss(student, teacher, batch, real_ids=sizes)
    loss.backward()  # type: ignore[no-untyped-call]
    grads = [weight.grad for weight in student.parameters() if weight.grad is not None]
    assert loss.item() == 0 and grads and not any(grad.any() for grad in grads)
    other = llama(SIZES.student, seed=5, tied=tied)
    universal_logit_loss(other, teacher, batch, real_ids=sizes).backward()  # type: ignore[no-untyped-call]
    assert loss_of(batch, other, teacher, real_ids=sizes) > 0.1
    assert all(weight.grad is not None and weight.grad.any() for weight in other.parameters())
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_student_comes_closer() -> None:
    student = llama(SIZES.student)
    rates, losses = torch.optim.Adam(student.parameters(), lr=3e-3), []
    for _ in range(15):
        loss = universal_logit_loss(student, TEACHER, BATCH, real_ids=SIZES)
        loss.backward()  # type: ignore[no-untyped-call]
        rates.step()
        rates.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# K5: which positions count


class disturbed:
    """Adds to a decoder's last hidden state at one position while the block runs."""

    def __init__(self, model: Any, row: int, position: int, size: float) -> None:
        def disturb(module: nn.Module, args: Any, output: Any) -> Any:
            output.last_hidden_state[row, position] += torch.linspace(-size, size, output.last_hidden_state.shape[-1])
            return output

        self.handle = model.model.register_forward_hook(disturb)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_positions_that_are_not_aligned_take_no_part_and_each_aligned_one_does(side: str) -> None:
    model = STUDENT if side == "student" else TEACHER
    positions = BATCH.student_positions if side == "student" else BATCH.teacher_positions
    with torch.no_grad():
        expected = loss_of()
        for row in range(len(positions)):
            for i, aligned in enumerate(positions[row].tolist()):
                with disturbed(model, row, i, 1.0 if aligned else float("nan")):
                    assert (loss_of() == expected) == (not aligned)


# errors


def test_a_batch_without_aligned_positions_and_a_teacher_in_training_are_refused() -> None:
    nowhere = BATCH._replace(
        student_positions=BATCH.student_positions & False, teacher_positions=BATCH.teacher_positions & False
    )
    with pytest.raises(PosttrainError, match="batch of 3 rows: 0 positions are aligned"):
        loss_of(nowhere)
    with pytest.raises(PosttrainError, match="teacher: it is in training mode"):
        loss_of(teacher=llama(SIZES.teacher).train())


def test_a_token_that_nothing_comes_before_is_not_aligned() -> None:
    bare = with_template(
        "{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}"
    )
    talk = {"0": [{"role": "assistant", "content": "Once there was a dog."}]}
    (row,) = rows_of(talk, student=bare)
    (plain,) = rows_of(talk, student=TEACHER_CHAT)
    assert 0 not in row.student_tokens and len(row.student_tokens) == len(plain.student_tokens) - 1
