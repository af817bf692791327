"""A push is one commit or none: the hub's repository is old or new whatever goes wrong on the way."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy

import pytest
from hub_double import SIGNATURE, TOKEN, Fault, HubDouble, reach
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import disable_progress_bars

from posttrain.errors import PosttrainError
from posttrain.hub import upload as uploading
from posttrain.hub.release import File
from posttrain.hub.upload import LINEAGE, Target, Uploaded, upload

CARD = b"---\nlicense: apache-2.0\n---\n# A card\n"
OLD = [File("README.md", CARD), File(LINEAGE, b"{}"), File("model.safetensors", b"old" * 50), File("vocab.txt", b"v")]
NEW = [File("README.md", CARD + b"New.\n"), File(LINEAGE, b"{}"), File("model.safetensors", b"new" * 50)]
TARGET = Target("user/name", "model")


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    disable_progress_bars()
    with HubDouble({TOKEN: ("user",), "hf_other": ("other",)}) as double:
        reach(double, monkeypatch)
        yield double


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


def push(files: list[File], target: Target = TARGET, said: list[str] | None = None) -> Uploaded:
    return upload(files, target, "a push", (said if said is not None else []).append)


def held(double: HubDouble) -> dict[str, bytes]:
    return {name: data for name, data in double.files("user/name").items() if name != ".gitattributes"}


def contents(files: list[File]) -> dict[str, bytes]:
    return {file.name: file.content for file in files if isinstance(file.content, bytes)}


def test_a_push_is_one_commit_and_the_same_push_none(double: HubDouble) -> None:
    first = push(OLD)
    assert first.new and held(double) == contents(OLD)
    assert first.url == f"{double.endpoint}/user/name/commit/{first.commit}"
    again = push(OLD)
    assert not again.new and again.commit == first.commit
    assert len(double.commits("user/name")) == 2, "the first one is the hub's own"
    changed = push(NEW)
    assert changed.new and [commit.title for commit in double.commits("user/name")][1:] == ["a push", "a push"]
    assert held(double) == contents(NEW), "what the new state does not have is gone"


def test_files_of_others_stay_and_weights_of_others_stop_a_push(double: HubDouble) -> None:
    push([File("picture.png", b"p"), File("README.md", CARD)])
    push(NEW)
    assert "picture.png" in held(double)
    api = HfApi(endpoint=double.endpoint)
    api.create_repo("user/theirs")
    api.upload_file(path_or_fileobj=b"w", path_in_repo="adapter_model.safetensors", repo_id="user/theirs")
    target = Target("user/theirs", "model")
    with pytest.raises(PosttrainError, match=r"holds adapter_model.safetensors, and no posttrain.json"):
        push(NEW, target)
    push(NEW, target._replace(replace=True))
    assert "adapter_model.safetensors" not in double.files("user/theirs")


def test_private_repositories_and_branches_are_made(double: HubDouble) -> None:
    push(OLD, Target("user/rows", "dataset", private=True, revision="v2"))
    assert double.repositories["dataset", "user/rows"].private
    assert "model.safetensors" in double.files("user/rows", "dataset", "v2")
    assert "model.safetensors" not in double.files("user/rows", "dataset")
    push(OLD)
    with pytest.raises(PosttrainError, match="is there and public"):
        push(NEW, TARGET._replace(private=True))


def test_somebody_elses_commit_stops_a_push(
    double: HubDouble, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(OLD)
    real = HfApi.create_commit

    def overtaken(self: HfApi, *arguments: object, **more: object) -> object:
        monkeypatch.setattr(HfApi, "create_commit", real)
        self.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="user/name")
        return real(self, *arguments, **more)

    monkeypatch.setattr(HfApi, "create_commit", overtaken)
    with pytest.raises(PosttrainError, match=r"somebody else has committed to main .* push again"):
        push(NEW)
    assert held(double) == {**contents(OLD), "x.txt": b"x"}
    assert push(NEW).new and held(double) == {**contents(NEW), "x.txt": b"x"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("/preupload/", status=401), "does not accept your token .*hf auth login.*HF_TOKEN"),
        (Fault("/preupload/", status=403), "may not write there"),
        (Fault("/revision/", status=404), "no such repository"),
        (Fault("/commit/", status=409), "another change to it is going on"),
        (Fault("/commit/", status=412, times=9), "somebody else has committed"),
        (Fault("/commit/", status=429, headers={"Retry-After": "3000"}), "asks for a pause .* 3000 s"),
        (Fault("/commit/", status=503, times=9), "the hub answered 503, 4 times"),
        (Fault("/commit/", drop=True, times=9), "no answer of the hub came, 4 times"),
    ],
)
def test_what_the_hub_refuses_is_said_and_changes_nothing(
    double: HubDouble, waits: list[float], fault: Fault, words: str
) -> None:
    push(OLD)
    double.faults = [fault]
    with pytest.raises(PosttrainError, match=f"^user/name: .*{words}"):
        push(NEW)
    assert held(double) == contents(OLD)
    double.faults = []
    assert push(NEW).new and held(double) == contents(NEW), "the same command does it later"


def test_no_token_and_a_wrong_one_name_the_way_out(double: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    with pytest.raises(PosttrainError, match=r"does not accept your token .401.*hf auth login"):
        push(NEW)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(PosttrainError, match="may not write there"):
        push(NEW)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(PosttrainError, match="no token of yours is here"):
        push(NEW)
    assert not double.repositories


def test_offline_and_no_hub_are_said(double: HubDouble, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PosttrainError, match=r"no answer of the hub came.*check the network"):
        push(NEW)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PosttrainError, match="HF_HUB_OFFLINE is set"):
        push(NEW)


def test_a_busy_hub_is_waited_for_as_it_asks(double: HubDouble, waits: list[float]) -> None:
    said: list[str] = []
    double.faults = [
        Fault("/commit/", status=429, headers={"Retry-After": "7"}),
        Fault("/commit/", status=502),
        Fault("/api/validate-yaml", status=502, nth=3),
        Fault("/commit/", status=429, nth=2, headers={"RateLimit": '"api";r=0;t=55'}),
    ]
    assert push(NEW, said=said).new and held(double) == contents(NEW)
    assert waits == [7, 2, 4] and len(said) == 3 and "answered 429; try 2 of 4 in 7 s" in said[0]
    assert len(double.commits("user/name")) == 2


@pytest.mark.parametrize(
    ("error", "words"), [(RuntimeError("CAS service error"), "got stuck"), (PermissionError("token"), "may not write")]
)
def test_a_large_file_that_goes_another_way_than_lfs_may_fail_too(
    double: HubDouble, waits: list[float], monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    """What hf_xet raises, which the double does not speak."""
    real, times = HfApi.create_commit, 1

    def fails(self: HfApi, *arguments: object, **more: object) -> object:
        nonlocal times
        times -= 1
        if times < 0:
            return real(self, *arguments, **more)
        raise error

    monkeypatch.setattr(HfApi, "create_commit", fails)
    said: list[str] = []
    if isinstance(error, RuntimeError):
        assert push(NEW, said=said).new and words in said[0]
        times = 9
    with pytest.raises(PosttrainError, match=words):
        push(OLD)


@pytest.mark.parametrize("how", [{"drop": True}, {"stall": True}, {"status": 504}])
def test_an_answer_that_is_lost_after_the_commit_makes_no_second_one(
    double: HubDouble, waits: list[float], monkeypatch: pytest.MonkeyPatch, how: dict[str, bool | int]
) -> None:
    monkeypatch.setattr(uploading, "STALLED", 0.2)
    push(OLD)
    double.faults = [Fault("/commit/", accepted=True, **how)]  # type: ignore[arg-type]
    done = push(NEW)
    assert done.new and held(double) == contents(NEW)
    assert [commit.oid for commit in double.commits("user/name")][2:] == [done.commit]


def mixtures(double: HubDouble, write: Callable[[list[File]], object]) -> Iterator[tuple[int, bool]]:
    """Where a connection that dies at the n-th request, and stays dead, leaves neither the old state nor the new."""
    push(OLD)
    before = deepcopy((double.repositories, double.large))
    for at in itertools.count(1):
        for accepted in (False, True):
            double.repositories, double.large = deepcopy(before)
            fault = Fault("", nth=at, times=10_000, drop=True, accepted=accepted)
            double.faults = [fault]
            with suppress(Exception):  # whatever it is: what counts is what the hub holds then
                write(NEW)
            if held(double) not in (contents(OLD), contents(NEW)):
                yield at, accepted
        if fault.met < at:  # it was over before
            return


def test_a_push_that_dies_at_any_request_leaves_the_old_state_or_the_new(
    double: HubDouble, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "TRIES", 1)
    assert list(mixtures(double, push)) == []

    def file_by_file(files: list[File]) -> None:
        for file in files:
            HfApi().create_commit("user/name", operations(file), commit_message=file.name)

    double.faults = []
    assert next(mixtures(double, file_by_file)), "the check tells a mixture"


def operations(file: File) -> list[object]:
    from huggingface_hub import CommitOperationAdd

    return [CommitOperationAdd(file.name, file.content)]


def test_what_the_client_waits_for_is_told_without_the_address(double: HubDouble, waits: list[float]) -> None:
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, logger = Lines(), logging.getLogger("huggingface_hub")
    logger.addHandler(handler)
    try:
        double.faults = [Fault("/lfs/", status=503, method="PUT")]
        push(NEW)
        assert any("503 thrown while requesting PUT the hub" in line for line in lines)
        assert not any(SIGNATURE in line for line in lines) and any(
            SIGNATURE in asked.query for asked in double.requests
        )
    finally:
        logger.removeHandler(handler)
