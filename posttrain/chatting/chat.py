"""A conversation: lines in, answers and remarks out."""

from collections.abc import Callable

from posttrain.chatting.answers import Answer, Say, Speaker
from posttrain.chatting.decoding import Decoding, changed
from posttrain.chatting.session import HELP, Session, check_system, fit, read_line
from posttrain.chatting.terminal import Screen
from posttrain.errors import PosttrainError


class Chat:
    """One conversation with the steps of a run; `speaker` opens a step's model by name, once."""

    def __init__(self, step: str, speaker: Callable[[str], Speaker], decoding: Decoding, screen: Screen) -> None:
        self.step, self.speaker, self.decoding, self.screen = step, speaker, decoding, screen
        self.session = Session()
        self.commands: dict[str, Callable[[str], None]] = {
            "/retry": self._retry,
            "/step": self._step,
            "/compare": self._compare,
            "/set": self._set,
            "/system": self.system,
            "/reset": self._reset,
            "/help": self._help,
        }

    def hold(self) -> None:
        """Until the input ends. What a line gets wrong is said, and the conversation goes on."""
        while True:
            try:
                self.line(self.screen.ask())
            except EOFError:
                return
            except PosttrainError as error:
                self.screen.remark(str(error))
            except KeyboardInterrupt:
                if self.screen.plain:
                    raise
                self.screen.remark("(Ctrl-D leaves, /help tells more)")

    def line(self, line: str) -> None:
        """Do what a line says: a command, or a request to be answered."""
        found = read_line(line)
        if not isinstance(found, str):
            self.commands[found.name](found.rest)
        elif found:
            self.session.ask(found)
            self._answer()

    def system(self, text: str) -> None:
        """Another system prompt, or none; refused where the step's template has no such role."""
        if text:
            speaker = self.speaker(self.step)
            check_system(speaker.render, speaker.where)
        self.session.system = text or None

    def _answer(self) -> None:
        answer = self._ask(self.step, self.screen.piece)
        self.session.asked += 1
        self.screen.end(self.step, answer)
        if answer.text or answer.ended != "interrupted":
            self.session.answered(answer.text)

    def _ask(self, step: str, say: Say) -> Answer:
        speaker = self.speaker(step)
        messages = self.session.messages()
        fitted = fit(messages, speaker.render, speaker.context, self.decoding.max_new_tokens)
        if fitted.forgotten:
            self.screen.remark(
                f"{step}: the first {fitted.forgotten} messages no longer fit its context of {speaker.context} tokens; "
                "they are left out (/reset begins anew)"
            )
        return speaker.answer(fitted.ids, self.decoding.for_answer(self.session.asked), say)

    def _retry(self, _: str) -> None:
        self.session.retry()
        if not self.decoding.draws:
            self.screen.remark("these settings draw nothing, so the answer is the same again (/set temperature=0.7)")
        self._answer()

    def _step(self, name: str) -> None:
        if not name:
            raise PosttrainError("/step: no name; that of a step is needed. Type /step NAME.")
        self._ready(name)
        self.step = name
        self.screen.remark(f"{name} answers from here on")

    def _compare(self, rest: str) -> None:
        names = rest.split()
        if len(names) == 1:
            names = [self.step, *names]
        if len(names) != 2:
            raise PosttrainError(f"/compare: {len(names)} names; two steps are needed. Type /compare A B.")
        if self.session.request is None:
            raise PosttrainError("/compare: nothing was asked yet. Ask for something first.")
        for name in names:
            self._ready(name)
        self.screen.side_by_side(names, [self._ask(name, lambda _: None) for name in names])

    def _ready(self, name: str) -> None:
        speaker = self.speaker(name)
        if self.session.system is not None:
            check_system(speaker.render, speaker.where)

    def _set(self, rest: str) -> None:
        pairs = [part.partition("=") for part in rest.split()]
        if not all(equals for _, equals, _ in pairs):
            raise PosttrainError(f"/set {rest}: NAME=VALUE is needed. Type /set temperature=0.5 for example.")
        self.decoding = changed(self.decoding, {name.replace("-", "_"): value for name, _, value in pairs}, "/set")
        search = "" if self.decoding.draws else "  (a search: temperature, top_p, min_p and seed decide nothing)"
        self.screen.remark(f"{self.decoding}{search}")

    def _reset(self, _: str) -> None:
        self.session.reset()
        self.screen.remark("the conversation begins anew")

    def _help(self, _: str) -> None:
        for usage, text in HELP.items():
            self.screen.remark(f"{usage:<16} {text}")
