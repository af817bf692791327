"""How fast control strings are looked for in clean text, beside one `str.replace` for each of the same strings.

    python -m bench.strip                # our own stories
    python -m bench.strip train.jsonl    # the `text` of each row

MB of UTF-8 a second of CPU time, the best of five: text by text, and all of them as one. Marked up is the same text
with `<` for each comma, so that there is something to look at. `str.replace` misses what is nested or disguised. It
fails where a clean text changes, or where an attack in one is not found.
"""

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

from data_gen.story import tell
from data_gen.strip import CHAT_PROTOCOLS, strip_control
from posttrain.lm.tokenizer import CHAT_TOKENS

STORIES, REPEATS = 4000, 5
ATTACK = "<|us<|user|>er|>"


def replaced(text: str) -> str:
    """One pass of `str.replace` for each control string."""
    for control in {*CHAT_TOKENS, *CHAT_PROTOCOLS}:
        text = text.replace(control, "")
    return text


def stripped(text: str) -> str:
    """The text by `strip_control`."""
    return strip_control(text, CHAT_TOKENS)[0]


def rate(clean: Callable[[str], str], texts: Sequence[str]) -> float:
    """MB a second of CPU time, the best of REPEATS; AssertionError where a text changes."""
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        found = [clean(text) for text in texts]
        seconds.append(time.process_time() - started)
        assert found == list(texts), "a clean text has changed"
    return sum(len(text.encode()) for text in texts) / 1e6 / min(seconds)


def peak(text: str) -> float:
    """Bytes allocated at the most, the text itself not counted, for each byte of it."""
    tracemalloc.start()
    stripped(text)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / len(text.encode())


def main() -> None:
    """Print a line for each way of cutting the same text."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help="JSON lines with a text each (default: our own stories)")
    file: Path | None = parser.parse_args().file
    if file is None:
        texts = [tell(1, number).text for number in range(STORIES)]
    else:
        texts = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
    whole = "\n".join(texts)
    assert stripped(whole + ATTACK) == whole != replaced(whole + ATTACK), "an attack is not found"
    marked = [text.replace(",", " <") for text in texts]
    kinds = {
        "text by text": texts,
        "one text": [whole],
        "one text, ASCII": [whole.encode("ascii", "ignore").decode("ascii")],
        "text by text, marked up": marked,
        "one text, marked up": ["\n".join(marked)],
    }
    print(f"{len(texts):,} texts, {len(whole.encode()) / 1e6:.2f} MB, {sum(not t.isascii() for t in texts)} not ASCII")
    print("| | strip_control, MB/s | str.replace, MB/s | times | peak bytes a byte |\n|---|---|---|---|---|")
    for name, cut in kinds.items():
        ours, theirs = rate(stripped, cut), rate(replaced, cut)
        print(f"| {name} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.1f} | {max(map(peak, cut[:100])):.1f} |")


if __name__ == "__main__":
    main()
