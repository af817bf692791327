"""Voting in a terminal: two texts, one letter, Enter."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from posttrain.labelling.ballot import CHOICES, Ballot, Choice, Shown

WIDE = 100  # columns from which the two texts stand side by side
HELP = "a  A is better    b  B is better    t  tie    s  skip    u  undo    q  quit"
WORDS = {
    word: words[0]
    for words in (("a",), ("b",), ("tie", "t"), ("skip", "s"), ("undo", "u"), ("quit", "q"))
    for word in words
}
CHOSEN: dict[str, Choice] = {choice: choice for choice in CHOICES}


def visible(text: str) -> str:
    """The text with its control characters as pictures of them: a completion must not drive the terminal."""
    return "".join(_picture(character) for character in text)


def _picture(character: str) -> str:
    code = ord(character)
    if character == "\n" or (code >= 0x20 and not 0x7F <= code <= 0x9F and not _turns(code)):
        return character
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else f"<U+{code:04X}>"


def _turns(code: int) -> bool:
    """Marks that turn the direction of writing, and with them what stands where."""
    return 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or code in (0x200E, 0x200F, 0x061C)


def vote(ballot: Ballot, console: Console, ask: Callable[[str], str]) -> None:
    """Ask for every pair until all are done or the voter quits; the end of the input quits too."""
    console.print(f"{ballot.voted} of {ballot.total} pairs have your vote. {HELP}", markup=False)
    at = None
    while shown := ballot.shown:
        if shown.id != at:
            _show(shown, ballot, console)
            at = shown.id
        try:
            word = WORDS.get(ask("> ").strip().lower())
        except EOFError:
            return
        if word == "quit":
            return
        console.print(_act(ballot, word), style="dim", markup=False)


def _act(ballot: Ballot, word: str | None) -> str:
    """Do what a word says; gives what is said of it."""
    if word in CHOSEN:
        ballot.vote(CHOSEN[word])
        return f"{word}: noted"
    if word == "skip":
        ballot.skip()
        return "skipped"
    if word == "undo":
        return "back at the pair before" if ballot.undo() else "there is nothing to undo"
    return HELP


def _show(shown: Shown, ballot: Ballot, console: Console) -> None:
    console.print()
    console.rule(f"{ballot.voted + ballot.skipped + 1} of {ballot.total}", style="dim")
    console.print(Text(visible(shown.prompt), style="bold"))
    texts = [Text(visible(text)) for text in (shown.first, shown.second)]
    if console.width < WIDE:
        for name, text in zip("AB", texts, strict=True):
            console.print()
            console.print(Text(name, style="bold cyan"))
            console.print(text)
        return
    table = Table("A", "B", expand=True, header_style="bold cyan")
    for column in table.columns:
        column.ratio = 1
    table.add_row(*texts)
    console.print(table)
