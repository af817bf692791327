"""A fast tokenizer as GGUF describes one: llama.cpp must cut every text into the same ids.

Two kinds are known: byte-level BPE (GGUF's `gpt2`) and SentencePiece-like BPE with byte tokens (GGUF's `llama`).
llama.cpp has code of its own for each way of cutting text into words and knows it by name: an unknown way is refused.
"""

import json
from typing import Any, NamedTuple

from gguf import GGUFWriter, Keys, TokenType

from posttrain.errors import PosttrainError
from posttrain.lm.markers import without_markers

LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How a tokenizer cuts text before BPE: llama.cpp's name for it (tokenizer.ggml.pre).
CUTS = {
    ("gpt2 words",): "gpt-2",
    ("single digits", "gpt2 words"): "smollm",
    (LETTERS + r"\p{N}" + OTHERS, "bytes"): "qwen2",  # Qwen's NFC is not done by llama.cpp
    (LETTERS + r"\p{N}{1,3}" + OTHERS, "bytes"): "llama-bpe",
}
NORMALIZERS_OF_BYTES = (None, {"type": "NFC"})
SPACES_TO_MARKS = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
END_KEYS = (Keys.Tokenizer.EOS_ID, Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID)  # llama.cpp stops at each


class Vocabulary(NamedTuple):
    """What the `tokenizer.*` keys of a GGUF file hold; lists are by token id."""

    pre: str | None  # of byte-level BPE; None is the SentencePiece-like kind
    tokens: list[str]
    types: list[TokenType]
    merges: list[tuple[str, str]]
    ids: dict[str, int]  # by GGUF key
    add_bos: bool
    add_eos: bool
    template: str | None


def read_vocabulary(tokenizer: Any, rows: int, stop_ids: list[int], where: str) -> Vocabulary:
    """The vocabulary of a fast tokenizer, filled up to the model's `rows`; `stop_ids` end an answer beside its eos.

    The template loses its training markers, which not every reader knows.
    """
    spec: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = _pre(spec, where)
    tokens, types = _tokens(spec, pre, rows, where)
    add_bos, add_eos = _added_by_encoding(tokenizer, where)
    template = tokenizer.chat_template
    if template is not None and not isinstance(template, str):
        raise PosttrainError(f"{where}: {len(template)} chat templates; one is allowed. Delete the others.")
    return Vocabulary(
        pre=pre,
        tokens=tokens,
        types=types,
        merges=[tuple(pair.split(" ", 1) if isinstance(pair, str) else pair) for pair in spec["model"]["merges"]],
        ids=_special_ids(tokenizer, stop_ids, where),
        add_bos=add_bos,
        add_eos=add_eos,
        template=template and without_markers(template),
    )


def write_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Add the `tokenizer.*` keys."""
    writer.add_tokenizer_model("llama" if vocabulary.pre is None else "gpt2")
    writer.add_tokenizer_pre(vocabulary.pre or "default")
    writer.add_token_list(vocabulary.tokens)
    if vocabulary.pre is None:
        writer.add_token_scores(_scores(vocabulary))
        writer.add_add_space_prefix(True)
    else:
        writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges])
    writer.add_token_types(vocabulary.types)
    for key, token in vocabulary.ids.items():
        writer.add_uint32(key, token)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)


def _pre(spec: dict[str, Any], where: str) -> str | None:
    """llama.cpp's name of the cut before byte-level BPE, None for the SentencePiece-like kind; others are refused."""
    model, normalizer, cuts = spec["model"], spec["normalizer"], _cuts(spec["pre_tokenizer"])
    odd = [key for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]
    if model["type"] == "BPE" and not odd:
        if cuts in CUTS and normalizer in NORMALIZERS_OF_BYTES:
            return CUTS[cuts]
        if not cuts and normalizer == SPACES_TO_MARKS and model["byte_fallback"] and model["vocab"].keys() >= {*BYTES}:
            return None
    raise PosttrainError(
        f"{where}: a {model['type']} tokenizer, cuts {' + '.join([*odd, *cuts]) or 'none'}, normalizer "
        f"{json.dumps(normalizer)}; byte-level BPE cut as by {', '.join(CUTS.values())} is allowed, and BPE with 256 "
        "byte tokens and ▁ for spaces. Choose another export format."
    )


def _cuts(pre_tokenizer: dict[str, Any] | None) -> tuple[str, ...]:
    """The steps of a pre-tokenizer in few words: what CUTS is asked with."""
    if pre_tokenizer is None:
        return ()
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    return tuple(_cut(step) for step in steps)


def _cut(step: dict[str, Any]) -> str:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}:
            return "gpt2 words" if use_regex else "bytes"
        case {"type": "Digits", "individual_digits": True}:
            return "single digits"
        case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated", "invert": False}:
            return regex
    return json.dumps(step)


def _tokens(spec: dict[str, Any], pre: str | None, rows: int, where: str) -> tuple[list[str], list[TokenType]]:
    """Text and type of each of the model's rows; rows without a token are marked as unused."""
    texts = {token: (text, TokenType.NORMAL) for text, token in spec["model"]["vocab"].items()}
    if pre is None:
        texts |= {spec["model"]["vocab"][text]: (text, TokenType.BYTE) for text in BYTES}
    for added in spec["added_tokens"]:
        if added["lstrip"] or added["rstrip"] or added["single_word"]:
            raise PosttrainError(
                f"{where}: token {added['content']!r} takes in its neighbours (lstrip, rstrip or single_word); "
                "tokens that stand for themselves are allowed. Choose another export format."
            )
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        if pre is None and added["content"] == spec["model"]["unk_token"]:
            kind = TokenType.UNKNOWN
        texts[added["id"]] = (added["content"], kind)
    if max(texts) >= rows:
        raise PosttrainError(
            f"{where}: the tokenizer has id {max(texts)} and the model {rows} rows; an id below {rows} is allowed. "
            "Resize the model's embeddings, or take the tokenizer that belongs to it."
        )
    listed = [texts.get(token, (f"[PAD{token}]", TokenType.UNUSED)) for token in range(rows)]
    return [text for text, _ in listed], [kind for _, kind in listed]


def _scores(vocabulary: Vocabulary) -> list[float]:
    """Minus the rank of the first merge that makes a piece: llama.cpp merges the highest score first."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(vocabulary.merges):
        ranks.setdefault("".join(pair), rank)
    return [-float(ranks.get(token, len(vocabulary.merges))) for token in vocabulary.tokens]


def _added_by_encoding(tokenizer: Any, where: str) -> tuple[bool, bool]:
    """Whether encoding puts bos before a text and eos after it; anything else that it adds is refused."""
    backend = tokenizer.backend_tokenizer
    plain, whole = backend.encode("a", add_special_tokens=False).ids, backend.encode("a").ids
    for bos in ([], [tokenizer.bos_token_id]):
        for eos in ([], [tokenizer.eos_token_id]):
            if whole == [*bos, *plain, *eos]:
                return bool(bos), bool(eos)
    raise PosttrainError(
        f"{where}: encoding 'a' gives {whole}, without special tokens {plain}; bos before and eos after a text are "
        "allowed. Correct the post_processor in tokenizer.json."
    )


def _special_ids(tokenizer: Any, stop_ids: list[int], where: str) -> dict[str, int]:
    """Ids by GGUF key: the tokenizer's own, and further stops as eot and eom."""
    eos = tokenizer.eos_token_id
    ends = [token for token in dict.fromkeys([eos, *stop_ids]) if token is not None]
    if not ends or len(ends) > len(END_KEYS):
        raise PosttrainError(
            f"{where}: {len(ends)} stop tokens {ends}; one to {len(END_KEYS)} are allowed, or answers never end. "
            "Correct eos_token in tokenizer_config.json and eos_token_id in generation_config.json."
        )
    ids = dict(zip(END_KEYS, ends, strict=False))
    named = {
        Keys.Tokenizer.BOS_ID: tokenizer.bos_token_id,
        Keys.Tokenizer.UNK_ID: tokenizer.unk_token_id,
        Keys.Tokenizer.PAD_ID: tokenizer.pad_token_id,
    }
    return ids | {key: token for key, token in named.items() if token is not None}
