"""llama.cpp cuts every text into the ids of the tokenizer that a GGUF file was made from, or the file is refused."""

import random
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from llamacpp_client import ask, exactly
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from posttrain.engines.llamacpp_engine import Running
from posttrain.errors import PosttrainError
from posttrain.lm import gguf, gguf_vocabulary
from posttrain.lm.chat import TEMPLATE, ChatFormat, content_encoder
from posttrain.lm.gguf import write_gguf
from posttrain.lm.gguf_vocabulary import LETTERS, OTHERS, Vocabulary, read_vocabulary
from posttrain.lm.models import add_chat_tokens, load_model, load_tokenizer, save_model
from posttrain.lm.pretraining import Architecture, new_model
from posttrain.lm.tokenizer import CHAT_TOKENS, GNARLY

STORYTELLER = Path(__file__).parents[1] / "models" / "storyteller-1m"
PLAIN = (
    *GNARLY,
    *(unicodedata.normalize("NFD", text) for text in GNARLY),
    "12345 3.14159 1,000,000 0x1F ²³ Ⅷ ٣٤ v2",
    "def f(x):\n    return x**2  # {}[]\n\tif a != b: pass\n",
    "I'll we've don't HE'S 'S",
    "\n\n\n a\n \n  \n",
    "a\u3000b\u2028c\x85d ǅ ß ſ İ 𝔘𝔫𝔦 🇩🇪",
    "▁a▁▁b Ġa <0x0A> <unk > [PAD600]",
    "abababab" * 8,
    "",
    " ",
)
PIECES = ["a", "the", " ", "  ", "\n", "'s", "1", "23", "é", "\u0301", "日本", "🙂", ".", "<", "|", ">", *CHAT_TOKENS]
MESSAGES = [
    {"role": "user", "content": "Tell me 3 things."},
    {"role": "assistant", "content": "No."},
    {"role": "user", "content": "Why?"},
]
BYTES, WORDS = pre_tokenizers.ByteLevel(False, use_regex=False), pre_tokenizers.ByteLevel(False)


def corpus() -> Iterator[str]:
    """Unicode, digits, code; then pieces that meet badly, control strings among them."""
    yield from PLAIN
    rng = random.Random(1)
    for _ in range(60):
        yield "".join(rng.choices(PIECES, k=rng.randrange(1, 25)))


def cut_differently(server: Running, tokenizer: Any) -> list[str]:
    """Texts that llama.cpp gives other ids than the tokenizer does, as a template's text or as untrusted content."""
    whole, content = tokenizer.backend_tokenizer, content_encoder(tokenizer.backend_tokenizer)
    found = []
    for text in corpus():
        as_template = ask(server, "/tokenize", content=text, add_special=True, parse_special=True)["tokens"]
        as_content = ask(server, "/tokenize", content=text, add_special=False, parse_special=False)["tokens"]
        if as_template != whole.encode(text).ids or as_content != content.encode(text, add_special_tokens=False).ids:
            found.append(text)
    return found


def served_differently(model_dir: Path, tmp_path: Path) -> list[str]:
    write_gguf(model_dir, tmp_path / "m.gguf", "f32")
    with exactly(tmp_path / "m.gguf") as server:
        return cut_differently(server, load_tokenizer(model_dir))


def chat_ids_of(model_dir: Path, tmp_path: Path) -> list[int]:
    """Ids of a chat prompt as llama.cpp makes them; their number is also what a chat completion counts."""
    write_gguf(model_dir, tmp_path / "m.gguf", "f32")
    with exactly(tmp_path / "m.gguf") as server:
        prompt = ask(server, "/apply-template", messages=MESSAGES)["prompt"]
        ids: list[int] = ask(server, "/tokenize", content=prompt, add_special=True, parse_special=True)["tokens"]
        usage = ask(server, "/v1/chat/completions", messages=MESSAGES, max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == len(ids)
    return ids


def chat_ids(model_dir: Path) -> list[int]:
    """Ids of the same prompt in training."""
    return ChatFormat(load_tokenizer(model_dir), "test").render(MESSAGES, add_generation_prompt=True).ids


def with_tokenizer(tokenizer: Tokenizer, path: Path, **special: str) -> Path:
    """A random model with this tokenizer."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", **special)
    shape = Architecture(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    save_model(new_model(shape, tokenizer.get_vocab_size(), 0, 3, seed=1), fast, path)
    return path


def byte_bpe(cut: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """Byte-level BPE over the test corpus, cut into words by `cut`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = cut
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=list(CHAT_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(list(corpus()) * 3, trainer)
    return tokenizer


def split(regex: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), BYTES])


@pytest.fixture
def stories260k_chat(stories260k: Path, tmp_path: Path) -> Path:
    """The SentencePiece-like tokenizer with our chat tokens added."""
    model, tokenizer = load_model(stories260k), load_tokenizer(stories260k)
    add_chat_tokens(model, tokenizer)
    save_model(model, tokenizer, tmp_path / "chat")
    return tmp_path / "chat"


def test_sentencepiece_ids_are_equal(stories260k: Path, tmp_path: Path) -> None:
    assert served_differently(stories260k, tmp_path) == []


def test_sentencepiece_ids_are_equal_with_chat_tokens_added(stories260k_chat: Path, tmp_path: Path) -> None:
    assert served_differently(stories260k_chat, tmp_path) == []
    assert chat_ids_of(stories260k_chat, tmp_path) == chat_ids(stories260k_chat)  # one bos, not two


def test_our_own_ids_are_equal(tmp_path: Path) -> None:
    assert served_differently(STORYTELLER, tmp_path) == []
    assert chat_ids_of(STORYTELLER, tmp_path) == chat_ids(STORYTELLER)


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("gpt-2", WORDS),
        ("smollm", pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), WORDS])),
        ("qwen2", split(LETTERS + r"\p{N}" + OTHERS)),
        ("llama-bpe", split(LETTERS + r"\p{N}{1,3}" + OTHERS)),
    ],
)
def test_ids_are_equal_for_each_known_cut(name: str, cut: pre_tokenizers.PreTokenizer, tmp_path: Path) -> None:
    path = with_tokenizer(byte_bpe(cut), tmp_path / "model")
    assert read_vocabulary(load_tokenizer(path), 700, [], "test").pre == name
    assert served_differently(path, tmp_path) == []


def test_bos_and_eos_are_added_where_the_tokenizer_does(tmp_path: Path) -> None:
    tokenizer = byte_bpe(WORDS)
    around = [("<|user|>", 1), ("<|end|>", 0)]
    tokenizer.post_processor = processors.TemplateProcessing("<|user|> $A <|end|>", special_tokens=around)
    path = with_tokenizer(tokenizer, tmp_path / "model", bos_token="<|user|>")
    vocabulary = read_vocabulary(load_tokenizer(path), 700, [], "test")
    assert (vocabulary.add_bos, vocabulary.add_eos) == (True, True)
    assert served_differently(path, tmp_path) == []


def test_rows_without_a_token_are_unused(tiny_chat_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_chat_model)
    vocabulary = read_vocabulary(tokenizer, len(tokenizer) + 2, [], "test")
    assert vocabulary.types[-3:] == [TokenType.NORMAL, TokenType.UNUSED, TokenType.UNUSED]
    assert len(set(vocabulary.tokens)) == len(tokenizer) + 2


def test_every_stop_token_of_generation_is_in_the_file(tiny_chat_model: Path) -> None:
    ids = read_vocabulary(load_tokenizer(tiny_chat_model), 600, [3, 0], "test").ids
    assert ids == {
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.eot_token_id": 3,
        "tokenizer.ggml.padding_token_id": 3,
    }


def break_vocabulary(monkeypatch: pytest.MonkeyPatch, change: Callable[[Vocabulary], Vocabulary]) -> None:
    read = gguf.read_vocabulary
    monkeypatch.setattr(gguf, "read_vocabulary", lambda *args: change(read(*args)))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v._replace(types=[TokenType.NORMAL] * len(v.types)),
        lambda v: v._replace(pre="qwen2"),
        lambda v: v._replace(merges=v.merges[::-1]),
        lambda v: v._replace(add_bos=True),
        lambda v: v._replace(tokens=[*v.tokens[:4], *v.tokens[5:], v.tokens[4]]),
    ],
    ids=["types", "cut", "merges", "bos", "order"],
)
def test_a_wrong_vocabulary_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Vocabulary], Vocabulary]
) -> None:
    path = with_tokenizer(byte_bpe(WORDS), tmp_path / "model")
    break_vocabulary(monkeypatch, change)
    assert served_differently(path, tmp_path) != []


def test_wrong_scores_are_noticed(stories260k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_vocabulary, "_scores", lambda vocabulary: [0.0] * len(vocabulary.tokens))
    assert served_differently(stories260k, tmp_path) != []


def test_a_missing_template_is_noticed(tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chat_ids_of(tiny_chat_model, tmp_path) == chat_ids(tiny_chat_model)
    break_vocabulary(monkeypatch, lambda vocabulary: vocabulary._replace(template=None))
    assert chat_ids_of(tiny_chat_model, tmp_path) != chat_ids(tiny_chat_model)


def test_the_template_in_the_file_has_no_training_markers(tiny_chat_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_chat_model)
    template = read_vocabulary(tokenizer, 600, [], "test").template
    assert template and "generation %}" in tokenizer.chat_template and "generation %}" not in template
    assert "add_generation_prompt" in template


def test_marks_that_stand_by_white_space_leave_the_same_text(
    tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(tiny_chat_model)
    tokenizer.chat_template = TEMPLATE.replace("{% endgeneration %}", "\n{% endgeneration %}")
    assert tokenizer.chat_template != TEMPLATE
    save_model(load_model(tiny_chat_model), tokenizer, tmp_path / "m")
    assert chat_ids_of(tmp_path / "m", tmp_path) == chat_ids(tmp_path / "m") != chat_ids(tiny_chat_model)
    marks = r"\{%-?\s*(?:end)?generation\s*-?%\}"  # taken out without a trace
    monkeypatch.setattr("posttrain.lm.gguf_vocabulary.without_markers", lambda text: re.sub(marks, "", text))
    assert chat_ids_of(tmp_path / "m", tmp_path) != chat_ids(tmp_path / "m"), "negative control"


def refused(tokenizer: Tokenizer, rows: int = 700, eos: str | None = "<|end|>", stops: tuple[int, ...] = ()) -> str:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos)
    with pytest.raises(PosttrainError) as error:
        read_vocabulary(fast, rows, list(stops), "model")
    return str(error.value)


def test_an_unknown_cut_is_refused_with_the_list() -> None:
    message = refused(byte_bpe(pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), BYTES])))
    assert "Whitespace" in message and "gpt-2, smollm, qwen2, llama-bpe" in message
    lower = byte_bpe(WORDS)
    lower.normalizer = normalizers.Lowercase()
    assert '"Lowercase"' in refused(lower)
    assert "WordLevel" in refused(Tokenizer(models.WordLevel({"a": 0, "<|end|>": 1}, unk_token="a")))


def test_what_gguf_cannot_say_of_a_tokenizer_is_refused() -> None:
    assert "below 600" in refused(byte_bpe(WORDS), rows=600)
    assert "0 stop tokens" in refused(byte_bpe(WORDS), eos=None)
    assert "4 stop tokens" in refused(byte_bpe(WORDS), stops=(1, 2, 3))
    greedy = byte_bpe(WORDS)
    greedy.add_special_tokens([AddedToken("<|wide|>", lstrip=True)])
    assert "'<|wide|>' takes in its neighbours" in refused(greedy, rows=701)
    twice = byte_bpe(WORDS)
    twice.post_processor = processors.TemplateProcessing("$A <|pad|>", special_tokens=[("<|pad|>", 3)])
    assert "bos before and eos after" in refused(twice)
