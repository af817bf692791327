"""Remove the control strings of chat protocols from text, in every disguise, and nothing else.

Text that reaches a chat template must not look like one. Matching is done on a view of the text in which
every character is NFKD-normalised and invisible characters are left out, so that `<|us<|user|>er|>`,
full-width bars and zero-width splits leave nothing; text without control strings comes back unchanged, byte
for byte. This is hygiene: the boundary is that content is encoded with special tokens disabled.
"""

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

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
# Default-ignorable code points outside the categories below. NFKD, not NFKC: `≯` is a `>` with a mark.
INVISIBLE = frozenset(
    chr(code)
    for first, last in (
        *((0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2065, 0x2065), (0x3164, 0x3164)),
        *((0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF)),
    )
    for code in range(first, last + 1)
)


def is_invisible(character: str) -> bool:
    """Whether a reader sees nothing where this character stands, or a program may drop it without a word."""
    hidden = unicodedata.category(character) in ("Cf", "Cc", "Cs")  # format, control, half of a surrogate pair
    return character in INVISIBLE or (hidden and character not in "\t\n\r")


class View(dict[int, str]):
    """A table for `str.translate`: each character as it is matched, nothing where it is invisible."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        seen = "" if is_invisible(character) else unicodedata.normalize("NFKD", character)
        self[code] = "".join(c for c in seen if not is_invisible(c))
        return self[code]


VIEW = View()
DOUBTFUL = re.compile(r"[^ -~\t\n\r]+")  # all that may be seen as something else


def view(text: str) -> str:
    """The text as it is matched."""
    return DOUBTFUL.sub(lambda run: run[0].translate(VIEW), text)


class Wanted(NamedTuple):
    """Control strings as they are matched, the longest first, and the characters that they begin with."""

    strings: tuple[str, ...]
    firsts: frozenset[str]
    pattern: re.Pattern[str]

    def are_in(self, text: str) -> bool:
        """Whether one of them is in the view of `text`; most texts lack even the characters that they begin with."""
        seen = text if text.isascii() else view("".join(set(text)))
        return any(first in seen for first in self.firsts) and self.pattern.search(view(text)) is not None


@lru_cache(maxsize=16)
def wanted_of(controls: frozenset[str]) -> Wanted:
    """`controls` and `CHAT_PROTOCOLS`, the empty one left out."""
    seen = {view(control) for control in (*controls, *CHAT_PROTOCOLS)} - {""}
    strings = tuple(sorted(seen, key=lambda string: (-len(string), string)))
    firsts = frozenset(string[0] for string in strings)
    return Wanted(strings, firsts, re.compile("|".join(map(re.escape, strings))))


def strip_control(text: str, controls: Collection[str]) -> tuple[str, int]:
    """The text without any of `controls` or `CHAT_PROTOCOLS`, and how many were removed."""
    wanted = wanted_of(frozenset(controls))
    removed = 0
    while wanted.are_in(text):
        text, count = remove_once(text, wanted.strings)
        removed += count
    return text, removed


def remove_once(text: str, controls: tuple[str, ...]) -> tuple[str, int]:
    """One pass. What is seen is a stack, so a control string that a removal brings together goes too."""
    edges = [0] * (len(text) + 1)  # what is removed begins with +1 and ends before -1; nested, it counts once
    stack: list[str] = []
    places: list[int] = []
    last, longest = {control[-1] for control in controls}, len(controls[0])
    removed = 0
    for place, character in enumerate(text):
        for seen in VIEW[ord(character)]:
            stack.append(seen)
            places.append(place)
            if seen not in last:
                continue
            top = "".join(stack[-longest:])
            if not top.endswith(controls):
                continue
            found = next(control for control in controls if top.endswith(control))
            edges[places[-len(found)]] += 1
            edges[place + 1] -= 1
            del stack[-len(found) :], places[-len(found) :]
            removed += 1
    return "".join(c for c, covered in zip(text, accumulate(edges), strict=False) if not covered), removed
