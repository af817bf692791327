"""Two tokenizers of different kinds, each with its chat template, and conversations rendered by both."""

import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from data_gen.story import tell
from posttrain.lm.chat import TEMPLATE, ChatFormat
from posttrain.lm.distillation.cross_tokenizer import AlignedRow, RealIds, align, spell
from posttrain.lm.tokenizer import END, PAD, train_tokenizer

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


def rows_of(
    talks: Any = TALKS, student: ChatFormat = STUDENT_CHAT, teacher: ChatFormat = TEACHER_CHAT
) -> list[AlignedRow]:
    return [align(a, b) for a, b in zip(spell(student, talks), spell(teacher, talks), strict=True)]


ROWS = rows_of()
