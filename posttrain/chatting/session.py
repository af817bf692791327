"""A conversation's history and the commands in it: plain values, no model and no terminal."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from posttrain.errors import PosttrainError

Message = dict[str, str]
Render = Callable[[Sequence[Message]], list[int]]  # a conversation's token ids, ready for an answer
HELP = {
    "/retry": "answer the last request again",
    "/step NAME": "go on with another step's model (NAME/FORMAT for an exported file)",
    "/compare A B": "the last request answered by two steps, side by side; the conversation stays as it is",
    "/set NAME=VALUE": "change a decoding setting; without one, show them",
    "/system TEXT": "another system prompt; without one, none",
    "/reset": "forget the conversation, not the system prompt",
    "/help": "this list",
}


class Command(NamedTuple):
    """A line that begins with a slash: its name, and what stands behind it."""

    name: str
    rest: str = ""


def read_line(line: str) -> Command | str:
    """A command, or a request: whatever is typed, word for word. `//` at the start stands for a request's own `/`."""
    if line.startswith("//"):
        return line[1:]
    if not line.startswith("/"):
        return line
    name, _, rest = line.partition(" ")
    known = [usage.split()[0] for usage in HELP]
    if name not in known:
        raise PosttrainError(f"no command '{name}'; there are {', '.join(known)}. A request's own / is typed as //.")
    if name == "/step" and len(rest.split()) == 2:
        name = "/compare"
    return Command(name, rest.strip())


class Session:
    """What was said so far. A request joins the history together with its answer."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.said: list[Message] = []  # user, assistant, user, assistant …
        self.request: str | None = None  # the last one
        self.waiting = False  # whether it has no answer yet
        self.asked = 0  # answers asked for so far: the number decides the seed

    def ask(self, request: str) -> None:
        """A new request; an earlier one without an answer is forgotten."""
        self.request, self.waiting = request, True

    def retry(self) -> None:
        """Take the last answer back."""
        if self.request is None:
            raise PosttrainError("/retry: nothing was asked yet. Ask for something first.")
        self.said, self.waiting = self.before, True

    def reset(self) -> None:
        """Begin anew."""
        self.said, self.request, self.waiting, self.asked = [], None, False, 0

    @property
    def before(self) -> list[Message]:
        """What was said before the last request."""
        return self.said if self.waiting else self.said[:-2]

    def answered(self, text: str) -> None:
        """The answer to the last request."""
        assert self.request is not None and self.waiting
        self.said = [*self.said, {"role": "user", "content": self.request}, {"role": "assistant", "content": text}]
        self.waiting = False

    def messages(self) -> list[Message]:
        """What a model is asked with: the system prompt, what was said before, and the last request."""
        assert self.request is not None
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*first, *self.before, {"role": "user", "content": self.request}]


class Fitted(NamedTuple):
    """Token ids of a conversation, and how many of its oldest messages were left out to make room."""

    ids: list[int]
    forgotten: int


def fit(messages: Sequence[Message], render: Render, context: int, max_new_tokens: int) -> Fitted:
    """Leave out the oldest exchanges until the answer has room in `context` tokens: all it may take, or half.

    The system prompt and the last request always stay; an error where these two alone fill the context.
    """
    room = min(max_new_tokens, context // 2)
    first = 1 if messages[0]["role"] == "system" else 0
    kept, ids = list(messages), render(messages)
    while len(ids) > context - room and len(kept) > first + 1:
        del kept[first : first + 2]
        ids = render(kept)
    if len(ids) >= context:
        raise PosttrainError(
            f"the request: {len(ids)} tokens; fewer than {context}, the model's context, are allowed. Shorten it."
        )
    return Fitted(ids, len(messages) - len(kept))


def check_system(render: Render, where: str) -> None:
    """Refuse a system prompt where the chat template has no such role: it would be lost, or read as a request."""
    from jinja2 import TemplateError

    def with_role(role: str, text: str) -> list[int] | None:
        try:
            return render([{"role": role, "content": text}, {"role": "user", "content": "b"}])
        except (TemplateError, PosttrainError):  # some templates refuse the role themselves, in either runtime
            return None

    made = with_role("system", "a")
    if made is None or made == with_role("system", "c") or made == with_role("user", "a"):
        raise PosttrainError(
            f"{where}: its chat template has no system role, so a system prompt is not allowed. "
            "Leave it out, or say it in the first request."
        )
