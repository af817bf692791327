"""Where two tokenizers meet: the positions at which a student and its teacher have read the same text."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from two_tokenizers import CHATML, OURS, ROWS, STORIES, STUDENT_CHAT, TALKS, TEACHER_CHAT, THEIRS, pieces, rows_of

from posttrain.errors import PosttrainError
from posttrain.lm.chat import ChatFormat, content_encoder
from posttrain.lm.distillation.cross_tokenizer import NOWHERE, align, aligned_share, prefix_lengths, spell
from posttrain.lm.models import load_tokenizer
from posttrain.lm.tokenizer import END, GNARLY


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


def test_a_token_that_nothing_comes_before_is_not_aligned() -> None:
    bare = with_template(
        "{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}"
    )
    talk = {"0": [{"role": "assistant", "content": "Once there was a dog."}]}
    (row,) = rows_of(talk, student=bare)
    (plain,) = rows_of(talk, student=TEACHER_CHAT)
    assert 0 not in row.student_tokens and len(row.student_tokens) == len(plain.student_tokens) - 1
