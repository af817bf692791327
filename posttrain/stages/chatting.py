"""A conversation with a step's model in the terminal: each line is a new request."""

import tempfile
from pathlib import Path


def talk(path: Path, step: str) -> None:
    """Read requests from standard input until it ends; the story world's models answer with a story."""
    from posttrain.engines.transformers_engine import Prompt, Sampling, sample
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.device import device
    from posttrain.lm.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(path)
    chat = ChatFormat(tokenizer, str(path))
    model = load_model(path).to(device())
    print(f"{step} is ready. Ask for something; an empty line or Ctrl-D ends it.", flush=True)
    turn = 0
    while True:
        try:
            request = input("> ").strip()
        except EOFError:
            return
        if not request:
            return
        turn += 1
        prompt = Prompt("chat", chat.render([{"role": "user", "content": request}], add_generation_prompt=True).ids)
        with tempfile.TemporaryDirectory() as folder:
            settings = Sampling(max_new_tokens=300, temperature=0.7, seed=turn, block_size=1)
            answer = sample(model, tokenizer, chat.stop_ids, [prompt], settings, Path(folder), lambda *_: None)["chat"]
        print(answer.text + ("" if answer.stopped else " …"), flush=True)
