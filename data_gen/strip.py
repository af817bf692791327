"""Remove the control strings of chat protocols from text, in every disguise, and nothing else.

Text that reaches a chat template must not look like one. Matching is done on a view of the text in which
every character is NFKC-normalised and invisible characters are left out, so that `<|us<|user|>er|>`,
full-width bars and zero-width splits leave nothing; text without control strings comes back unchanged, byte
for byte. This is hygiene: the boundary is that content is encoded with special tokens disabled.
"""

import unicodedata
from collections.abc import Collection

CHAT_PROTOCOLS: tuple[str, ...] = (
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>"),  # ChatML, Qwen, Phi-4
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),  # Llama 2, Mistral
    *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),  # Mistral
    *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),  # Llama 3
    *("<|eot_id|>", "<|eom_id|>", "<|python_tag|>", "<|finetune_right_pad_id|>"),
    *("<|begin_of_sentence|>", "<|end_of_sentence|>"),
    *("<start_of_turn>", "<end_of_turn>"),  # Gemma
    *(
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|tool|>",
        "<|end|>",
        "<|endoftext|>",
        "<|pad|>",
    ),  # Phi, ours
    *("<|startoftext|>", "<|endofprompt|>", "<|start|>", "<|message|>", "<|channel|>", "<|return|>"),
    *("<|begin▁of▁sentence|>", "<|end▁of▁sentence|>", "<|User|>", "<|Assistant|>"),  # DeepSeek, bars folded
    *("<|tool▁calls▁begin|>", "<|tool▁calls▁end|>", "<|tool▁call▁begin|>", "<|tool▁call▁end|>"),
    *("<|tool▁outputs▁begin|>", "<|tool▁outputs▁end|>", "<|tool▁sep|>"),
    *(
        "<s>",
        "</s>",
        "<bos>",
        "<eos>",
        "<pad>",
        "<unk>",
        "<mask>",
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ),
)
INVISIBLE = frozenset(
    chr(code)
    for span in ((0x34F,), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x3164,), (0xFE00, 0xFE0F))
    for code in range(span[0], span[-1] + 1)
) | {chr(0xFFA0)}


def is_invisible(character: str) -> bool:
    """Whether a reader sees nothing where this character stands."""
    tag_or_selector = 0xE0000 <= ord(character) < 0xE1000
    return character in INVISIBLE or tag_or_selector or unicodedata.category(character) == "Cf"


class View(dict[int, str]):
    """A table for `str.translate`: each character as it is matched, nothing where it is invisible."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        seen = "" if is_invisible(character) else unicodedata.normalize("NFKC", character)
        self[code] = "".join(c for c in seen if not is_invisible(c))
        return self[code]


VIEW = View()


def strip_control(text: str, controls: Collection[str]) -> tuple[str, int]:
    """The text without any of `controls` or `CHAT_PROTOCOLS`, and how many were removed."""
    wanted = {control.translate(VIEW) for control in (*controls, *CHAT_PROTOCOLS)} - {""}
    longest_first = sorted(wanted, key=len, reverse=True)
    removed, view = 0, text.translate(VIEW)
    while any(control in view for control in wanted):
        text, count = remove_once(text, longest_first)
        removed, view = removed + count, text.translate(VIEW)
    return text, removed


def remove_once(text: str, controls: Collection[str]) -> tuple[str, int]:
    """One pass. What is seen is a stack, so a control string that a removal brings together goes too."""
    gone = bytearray(len(text))
    stack: list[str] = []
    places: list[int] = []
    last = {control[-1] for control in controls}
    removed = 0
    for place, character in enumerate(text):
        for seen in character.translate(VIEW):
            stack.append(seen)
            places.append(place)
            if seen not in last:
                continue
            for control in controls:
                if "".join(stack[-len(control) :]) == control:
                    start = places[-len(control)]
                    gone[start : place + 1] = b"\1" * (place + 1 - start)
                    del stack[-len(control) :], places[-len(control) :]
                    removed += 1
                    break
    return "".join(c for c, is_gone in zip(text, gone, strict=True) if not is_gone), removed
