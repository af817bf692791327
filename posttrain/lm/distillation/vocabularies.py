"""Whether two tokenizers share a vocabulary: looked at before training, since logits are compared id by id.

Equal sizes prove nothing: with other token strings at the ids, training runs, the loss falls, and the student
learns nonsense. Heads with more rows than tokens are no matter here (Qwen pads 151,665 tokens to 151,936 or
152,064 rows): what counts is the tokens.
"""

from typing import Any

from posttrain.errors import PosttrainError

WAY_OUT = "Use method: cross_tokenizer, or a teacher with the student's tokenizer."


def check_same_vocabulary(student: Any, teacher: Any) -> int:
    """The number of real ids (highest id + 1) of two transformers tokenizers that agree; else an error.

    They agree when every id has one token string, the same tokens are control tokens (added, so never made from
    text pieces; `special` alike), and BOS, EOS and UNK are the same ids. The pad token may differ: it is masked.
    """
    ours, theirs = _tokens(student), _tokens(teacher)
    for token_id in sorted(ours.keys() | theirs.keys()):
        _check_token(token_id, ours.get(token_id), theirs.get(token_id), len(ours), len(theirs))
    _check_control(student, teacher, ours)
    return max(ours) + 1


def _tokens(tokenizer: Any) -> dict[int, str]:
    return {token_id: token for token, token_id in tokenizer.get_vocab().items()}


def _check_token(token_id: int, ours: str | None, theirs: str | None, student_size: int, teacher_size: int) -> None:
    if ours == theirs:
        return
    found = " and ".join(
        f"{who} {'no token' if token is None else repr(token)}"
        for who, token in (("for the student", ours), ("for the teacher", theirs))
    )
    raise PosttrainError(
        f"vocabulary: id {token_id} is {found} ({student_size:,} and {teacher_size:,} tokens); the same token string "
        f"at every id is needed to compare logits. {WAY_OUT}"
    )


def _check_control(student: Any, teacher: Any, tokens: dict[int, str]) -> None:
    ours, theirs = _kinds(student), _kinds(teacher)
    for token_id in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(token_id, "an ordinary token"), theirs.get(token_id, "an ordinary token")
        if mine != other:
            raise PosttrainError(
                f"vocabulary: id {token_id}, {tokens[token_id]!r}, is {mine} for the student and {other} for the "
                f"teacher; the same control tokens are needed. Give both one tokenizer, or use method: cross_tokenizer."
            )
    roles = (
        ("bos", student.bos_token_id, teacher.bos_token_id),
        ("eos", student.eos_token_id, teacher.eos_token_id),
        ("unk", student.unk_token_id, teacher.unk_token_id),
    )
    for role, mine_id, other_id in roles:
        if mine_id != other_id:
            raise PosttrainError(
                f"vocabulary: {role}_token is {_named(mine_id, tokens)} for the student and {_named(other_id, tokens)} "
                f"for the teacher; the same token is needed. Give both one tokenizer, or use method: cross_tokenizer."
            )


def _kinds(tokenizer: Any) -> dict[int, str]:
    """What each added token is; every one of them is a control token, `special` or not."""
    return {
        token_id: "a special control token" if token.special else "a control token"
        for token_id, token in tokenizer.added_tokens_decoder.items()
    }


def _named(token_id: int | None, tokens: dict[int, str]) -> str:
    return "none" if token_id is None else f"id {token_id}, {tokens[token_id]!r},"
