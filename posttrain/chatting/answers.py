"""A model that answers as it goes: token ids in, pieces of text out, whoever runs it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from posttrain.chatting.decoding import Decoding
from posttrain.chatting.session import Message

Say = Callable[[str], None]
Ended = Literal["stop", "length", "interrupted"]


class Answer(NamedTuple):
    """Text without its stop token, why it ended, its tokens (the stop counted), and what it took."""

    text: str
    ended: Ended
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens a second, reading the prompt included."""
        return self.tokens / self.seconds if self.seconds else 0.0


class Speaker(Protocol):
    """What a conversation needs of a model. `context` is in tokens, prompt and answer together."""

    where: str
    context: int

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where the answer begins; contents never become control ids."""
        ...

    def answer(self, ids: Sequence[int], settings: Decoding, say: Say) -> Answer:
        """Answer, saying each piece as it is there. Ctrl-C ends the answer, not the conversation."""
        ...


@contextmanager
def open_speaker(path: Path) -> Iterator[Speaker]:
    """A GGUF file in llama.cpp, or a model directory in transformers."""
    if path.is_file():
        from posttrain.chatting.llamacpp_answers import LlamaCppSpeaker
        from posttrain.engines.llamacpp_engine import serve
        from posttrain.engines.threads import threads_for

        threads = threads_for(path.stat().st_size)
        with serve(path, context=LlamaCppSpeaker.CONTEXT, threads=threads) as running:
            yield LlamaCppSpeaker(path, running)
    else:
        yield TransformersSpeaker(path)


class TransformersSpeaker:
    """transformers' own `generate`. Beam search has its answer only at the end, and says it in one piece."""

    def __init__(self, path: Path) -> None:
        from transformers import GenerationConfig

        from posttrain.lm.chat import ChatFormat
        from posttrain.lm.device import device
        from posttrain.lm.models import load_model, load_tokenizer

        self.where = str(path)
        self.tokenizer = load_tokenizer(path)
        self.chat = ChatFormat(self.tokenizer, self.where)
        self.model = load_model(path).to(device()).eval()
        self.model.generation_config = GenerationConfig()  # else what it lacks would be filled from the model's own
        self.context: int = self.model.config.get_text_config().max_position_embeddings

    def render(self, messages: Sequence[Message]) -> list[int]:
        """By the model's own chat template, as it was trained."""
        return self.chat.render(messages, add_generation_prompt=True).ids

    def answer(self, ids: Sequence[int], settings: Decoding, say: Say) -> Answer:
        """The same seed gives the same answer."""
        import torch

        pieces = _Pieces(self.tokenizer, self.chat.stop_ids, say)
        prompt = torch.tensor([list(ids)], device=self.model.device)
        streamer = None if settings.beams > 1 else pieces
        made, interrupted, started = [], False, time.perf_counter()
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            try:
                out = self.model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    generation_config=self._config(settings, self.context - len(ids)),
                    streamer=streamer,
                )
                made = out[0, len(ids) :].tolist()
            except KeyboardInterrupt:
                made, interrupted = pieces.ids, True
        seconds = time.perf_counter() - started
        ended: Ended = "interrupted" if interrupted else "stop" if made[-1] in self.chat.stop_ids else "length"
        kept = made[:-1] if made and made[-1] in self.chat.stop_ids else made
        text = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        say(text.removeprefix(pieces.said))  # half a character that was never completed; with beams all of it
        return Answer(text, ended, len(made), seconds)

    def _config(self, settings: Decoding, room: int) -> Any:
        from transformers import GenerationConfig

        drawn = {"temperature": settings.temperature, "top_p": settings.top_p, "min_p": settings.min_p, "top_k": 0}
        return GenerationConfig(
            do_sample=settings.draws,
            num_beams=settings.beams,
            max_new_tokens=min(settings.max_new_tokens, room),
            eos_token_id=sorted(self.chat.stop_ids),
            pad_token_id=self.tokenizer.eos_token_id if (pad := self.tokenizer.pad_token_id) is None else pad,
            **(drawn if settings.draws else {}),
        )


class _Pieces:
    """What `generate` hands its tokens to: says text as soon as whole characters are there."""

    def __init__(self, tokenizer: Any, stop_ids: frozenset[int], say: Say) -> None:
        from tokenizers.decoders import DecodeStream

        self.backend, self.stop_ids, self.say = tokenizer.backend_tokenizer, stop_ids, say
        self.stream = DecodeStream(skip_special_tokens=False)
        self.ids: list[int] = []
        self.said, self.begun = "", False

    def put(self, ids: Any) -> None:
        """The prompt comes first, and is not said again."""
        if not self.begun:
            self.begun = True
            return
        for token in ids.reshape(-1).tolist():
            self.ids.append(token)
            if token not in self.stop_ids and (piece := self.stream.step(self.backend, token)):
                self.said += piece
                self.say(piece)

    def end(self) -> None:
        """Nothing is held back."""
