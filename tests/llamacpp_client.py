"""What the tests of GGUF files ask llama.cpp's server."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.request import Request, urlopen

import torch

from posttrain.engines.llamacpp_engine import Running, serve

exactly = partial(serve, context=512, cache="f32")


def ask(server: Running, path: str, **body: Any) -> Any:
    data = json.dumps(body).encode()
    with urlopen(Request(server.base_url + path, data, {"Content-Type": "application/json"}), timeout=60) as reply:
        return json.load(reply)


def chat(server: Running, content: str, **body: Any) -> Any:
    """The first choice of a chat completion."""
    messages = [{"role": "user", "content": content}]
    return ask(server, "/v1/chat/completions", messages=messages, **body)["choices"][0]


def greedy(server: Running, ids: Sequence[int], count: int) -> list[int]:
    body = {"prompt": list(ids), "n_predict": count, "temperature": 0, "return_tokens": True}
    tokens: list[int] = ask(server, "/completion", **body)["tokens"]
    return tokens


def furthest(model: Any, server: Running, ids: Sequence[int]) -> float:
    """The largest difference between the two in a next token's log-probability, over the 50 likeliest."""
    with torch.inference_mode():
        ours = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], dim=-1)
    letter = ask(server, "/tokenize", content="a")["tokens"][-1]  # made to say it: half a character has no logprobs
    said = ask(server, "/completion", prompt=list(ids), n_predict=1, n_probs=50, logit_bias=[[letter, 1000]])
    likeliest = said["completion_probabilities"][0]["top_logprobs"]
    assert len(likeliest) == 50
    return max(abs(top["logprob"] - float(ours[top["id"]])) for top in likeliest)
