"""Tiny random models of the architectures and tokenizer classes that the recipes of real size start from.

Each directory looks as its big sister's repository does: `tokenizer.json` as it was trained, the class by its name in
`tokenizer_config.json`, and no chat template but Qwen's, which even its base models carry.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPTNeoConfig, LlamaConfig, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from data_gen.story import tell
from posttrain.lm.gguf_vocabulary import BYTES, LETTERS, OTHERS

TEXTS = [
    *(tell(1, number).text for number in range(150)),
    "<think>\nLet x = 12, so x + 1 = 13.\n</think>\n\nThe answer is \\boxed{13}.",
]
END = "<|endoftext|>"
CHATML = ("<|im_start|>", "<|im_end|>")
VOCABULARY = 512
CONTEXT = 4096
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def gpt_neo(path: Path, hidden: int = 32, layers: int = 2) -> Path:
    """TinyStories-1M and -33M: GPT-Neo, GPT2Tokenizer."""
    tokenizer = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), special=[END], first=False)
    config = GPTNeoConfig(
        hidden_size=hidden, num_layers=layers, num_heads=2, attention_types=[[["global", "local"], layers // 2]],
        window_size=64, max_position_embeddings=CONTEXT, vocab_size=tokenizer.get_vocab_size(),
        bos_token_id=tokenizer.token_to_id(END), eos_token_id=tokenizer.token_to_id(END),
    )  # fmt: skip
    return _saved(path, config, tokenizer, "GPT2Tokenizer", bos_token=END, eos_token=END, unk_token=END)


def smollm(path: Path) -> Path:
    """SmolLM2-135M: a tied Llama, GPT2Tokenizer that cuts digits one by one."""
    cut = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer = _byte_level(cut, special=[END, *CHATML], first=True)
    config = LlamaConfig(**_llama(32, tied=True), vocab_size=tokenizer.get_vocab_size(), bos_token_id=0, eos_token_id=0)
    return _saved(path, config, tokenizer, "GPT2Tokenizer", bos_token=END, eos_token=END, unk_token=END)


def qwen2(path: Path) -> Path:
    """Qwen2.5-0.5B: a tied Qwen2, Qwen2Tokenizer, ChatML although it is a base."""
    from trl.chat_template_utils import qwen2_5_chat_template

    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cut = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LETTERS + r"\p{N}" + OTHERS), "isolated"), bytes_alone])
    tokenizer = _byte_level(cut, special=[END, *CHATML], first=False)
    tokenizer.normalizer = normalizers.NFC()
    rows = tokenizer.get_vocab_size() + 5  # as Qwen's, which has more rows than tokens
    end = tokenizer.token_to_id(END)
    config = Qwen2Config(**_llama(32, tied=True), vocab_size=rows, bos_token_id=end, eos_token_id=end)
    return _saved(
        path, config, tokenizer, "Qwen2Tokenizer", eos_token=END, pad_token=END, chat_template=qwen2_5_chat_template
    )


def llama(path: Path, hidden: int = 64) -> Path:
    """TinyLlama-1.1B: an untied Llama, LlamaTokenizer with byte fallback."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *BYTES]
    bpe.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=VOCABULARY + 256, special_tokens=special, show_progress=False)
    )
    spec = json.loads(bpe.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["id"] < 3]  # bytes are ordinary pieces
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    config = LlamaConfig(
        **_llama(hidden, tied=False), vocab_size=tokenizer.get_vocab_size(), bos_token_id=1, eos_token_id=2
    )
    return _saved(
        path, config, tokenizer, "LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>", legacy=False
    )


def _llama(hidden: int, tied: bool) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "tie_word_embeddings": tied,
    }  # fmt: skip


def _byte_level(cut: pre_tokenizers.PreTokenizer, special: Sequence[str], first: bool) -> Tokenizer:
    """Byte-level BPE; its special tokens come first, as SmolLM's, or last, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(special) if first else [],
            initial_alphabet=ALPHABET,
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return tokenizer


def _saved(path: Path, config: Any, tokenizer: Tokenizer, tokenizer_class: str, **settings: Any) -> Path:
    path.mkdir(parents=True)
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    told = {"tokenizer_class": tokenizer_class, "model_max_length": CONTEXT, **settings}
    (path / "tokenizer_config.json").write_text(json.dumps(told, indent=1))
    return path
