"""Tests run offline on one thread; tiny real models are made once a session."""

import gc
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
STORIES260K = SHARED / "models" / "stories260k"
frozen = 0  # imported modules when garbage was last collected and all that was left set aside


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def imported_libraries_are_no_garbage() -> None:
    """Every training run collects garbage before its first step, and would look at all of torch and TRL each time."""
    global frozen
    if len(sys.modules) > frozen + 100:
        frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def tiny_chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with our tokenizer and chat template, as a directory."""
    from data_gen.story import tell
    from posttrain.lm.chat import TEMPLATE
    from posttrain.lm.models import load_tokenizer, save_model
    from posttrain.lm.pretraining import Architecture, new_model
    from posttrain.lm.tokenizer import save_tokenizer, train_tokenizer

    path = tmp_path_factory.mktemp("tiny")
    bpe = train_tokenizer((tell(1, i).text for i in range(200)), 600)
    shape = Architecture(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    save_tokenizer(bpe, TEMPLATE, 256, path)
    save_model(new_model(shape, bpe.get_vocab_size(), 0, 3, seed=1), load_tokenizer(path), path)
    return path


@pytest.fixture(scope="session")
def faulty(tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random words, with every fault that an answer can have."""
    from pairs_stage import faulty_model

    return faulty_model(tiny_chat_model, tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="session")
def prompt_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a step that made rows, to be asked as prompts."""
    from pairs_stage import rows_step

    return rows_step(tmp_path_factory.mktemp("prompt_rows"))


@pytest.fixture
def stories260k() -> Path:
    """The real pretrained model of 260K parameters; tests that need it skip without it."""
    if not STORIES260K.is_dir():
        pytest.skip("needs the stories260k model beside the project")
    return STORIES260K
