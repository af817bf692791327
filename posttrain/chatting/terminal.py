"""Where a conversation is seen. In a terminal it has a prompt, and remarks stand between the answers.

From a pipe each line is a request or a command; answers alone go to stdout, remarks to stderr.
"""

import io
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from posttrain.chain.console import screen_console
from posttrain.chatting.answers import Answer
from posttrain.labelling.terminal import visible


class Screen:
    """Answers as they come. `as_json` gives one object an answer, when it is whole."""

    def __init__(self, plain: bool, as_json: bool = False) -> None:
        self.plain, self.as_json = plain, as_json
        self.console = screen_console()
        self.remarks = Console(highlight=False, stderr=plain or as_json)

    def ask(self) -> str:
        """The next line; EOFError at the end."""
        return input("" if self.plain else "> ").strip()

    def piece(self, text: str) -> None:
        """A part of an answer, at once. Only a terminal could be driven by control characters, so it gets none."""
        if not self.as_json:
            sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
            sys.stdout.flush()

    def end(self, name: str, answer: Answer) -> None:
        """What an answer took."""
        if self.as_json:
            self._json(name, answer)
        else:
            self.piece("\n")
        self.remark(f"{name}: {_took(answer)}")

    def side_by_side(self, names: Sequence[str], answers: Sequence[Answer]) -> None:
        """Two answers to one request, beside each other."""
        if self.as_json:
            for name, answer in zip(names, answers, strict=True):
                self._json(name, answer)
            return
        table = Table(expand=True, header_style="bold")
        for name, answer in zip(names, answers, strict=True):
            table.add_column(Text(name), footer=Text(_took(answer)), ratio=1)
        table.show_footer = True
        table.add_row(*(Text(visible(answer.text)) for answer in answers))
        self.console.print(table)

    def remark(self, text: str) -> None:
        """Something that no model said."""
        self.remarks.print(visible(text), style="dim", markup=False, soft_wrap=True)

    def _json(self, name: str, answer: Answer) -> None:
        said = {"step": name, "text": answer.text, "ended": answer.ended, "tokens": answer.tokens}
        print(json.dumps({**said, "tokens_per_second": round(answer.rate, 1)}, ensure_ascii=False), flush=True)


def _took(answer: Answer) -> str:
    """`57 tokens in 0.12 s, 475 tokens/s`, and why it ended where the model did not end it."""
    cut = {"stop": "", "length": "; cut at this length", "interrupted": "; interrupted"}[answer.ended]
    return f"{answer.tokens} tokens in {answer.seconds:.2f} s, {answer.rate:,.0f} tokens/s{cut}"


def open_screen(as_json: bool) -> Screen:
    """The screen of this process: decorated where a person types."""
    plain = not sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text must not end the conversation
    if not plain:
        import readline  # noqa: F401  what gives `input` its editing and its history
    return Screen(plain, as_json)
