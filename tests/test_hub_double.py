"""The double speaks the hub's protocol: the real client creates, commits, lists and resolves, and meets its errors."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_double import TOKEN, Fault, HubDouble, reach
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_hf_file_metadata
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

README = "---\nlicense: apache-2.0\ntags: [a]\n---\n# A card\n"


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    with HubDouble({TOKEN: ("user", "club"), "hf_other": ("other",)}) as double:
        reach(double, monkeypatch)
        yield double


def api(double: HubDouble, token: str | None = TOKEN) -> HfApi:
    return HfApi(endpoint=double.endpoint, token=token or False)


def add(**files: bytes) -> list[CommitOperationAdd]:
    names = {name: name.replace("__", "/").replace("_", ".") for name in files}
    return [CommitOperationAdd(names[name], content) for name, content in files.items()]


def test_a_repository_is_created_filled_and_read(double: HubDouble) -> None:
    client = api(double)
    assert client.whoami()["name"] == "user"
    client.create_repo("user/name", private=True)
    assert double.files("user/name").keys() == {".gitattributes"}
    files = {"README_md": README.encode(), "model_safetensors": b"weights" * 100, "onnx__a_txt": b"a", "empty_txt": b""}
    made = client.create_commit("user/name", add(**files), commit_message="one")
    assert double.files("user/name")["model.safetensors"] == b"weights" * 100
    assert [commit.title for commit in double.commits("user/name")] == ["initial commit", "one"]
    assert any(path.startswith("/lfs/") for path in double.asked), "large files go by LFS, the rest in the commit"

    found = client.model_info("user/name", files_metadata=True)
    assert found.sha == made.oid and found.private and found.card_data["license"] == "apache-2.0"
    listed = {entry.path: entry for entry in client.list_repo_tree("user/name", recursive=True)}
    assert listed["model.safetensors"].lfs.sha256 == hashlib.sha256(b"weights" * 100).hexdigest()
    assert listed["README.md"].lfs is None and "onnx" in listed and "onnx/a.txt" in listed
    assert "onnx/a.txt" not in {entry.path for entry in client.list_repo_tree("user/name")}
    url = f"{double.endpoint}/user/name/resolve/main/model.safetensors"
    metadata = get_hf_file_metadata(url, token=TOKEN)
    assert (metadata.size, metadata.commit_hash) == (700, made.oid)

    client.create_commit("user/name", [CommitOperationDelete("onnx/a.txt")], commit_message="two")
    assert "onnx/a.txt" not in double.files("user/name") and "onnx/a.txt" in dict(double.commits("user/name")[1].files)


def test_branches_are_made_and_committed_to(double: HubDouble) -> None:
    client = api(double)
    client.create_repo("club/rows", repo_type="dataset")
    client.create_branch("club/rows", branch="v1/a", repo_type="dataset")
    client.create_commit("club/rows", add(a_txt=b"a"), commit_message="x", revision="v1/a", repo_type="dataset")
    assert "a.txt" in double.files("club/rows", "dataset", "v1/a") and "a.txt" not in double.files(
        "club/rows", "dataset"
    )
    refs = client.list_repo_refs("club/rows", repo_type="dataset")
    assert {branch.name for branch in refs.branches} == {"main", "v1/a"}
    with pytest.raises(RevisionNotFoundError):
        client.dataset_info("club/rows", revision="v2")
    with pytest.raises(HfHubHTTPError, match="409"):
        client.create_branch("club/rows", branch="v1/a", repo_type="dataset")


def test_a_moved_parent_is_412_and_nothing_changes(double: HubDouble) -> None:
    client = api(double)
    client.create_repo("user/name")
    old = double.commits("user/name")[-1].oid
    client.create_commit("user/name", add(a_txt=b"a"), commit_message="x", parent_commit=old)
    with pytest.raises(HfHubHTTPError, match="412"):
        client.create_commit("user/name", add(b_txt=b"b"), commit_message="y", parent_commit=old)
    assert double.files("user/name").keys() == {".gitattributes", "a.txt"}


def test_who_may_do_what(double: HubDouble, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    double.add("user/secret", tmp_path, private=True)
    double.add("other/gated", tmp_path, gated=True)
    assert api(double).model_info("user/secret").private
    for token in (None, "hf_other"):
        with pytest.raises(RepositoryNotFoundError):
            api(double, token).model_info("user/secret")
    with pytest.raises(HfHubHTTPError, match="401"):
        api(double, "hf_wrong").model_info("other/gated")
    for token in (None, TOKEN):
        with pytest.raises(GatedRepoError):
            get_hf_file_metadata(f"{double.endpoint}/other/gated/resolve/main/config.json", token=token or False)
    for token, status in ((None, "401"), (TOKEN, "403")):
        with pytest.raises(HfHubHTTPError, match=status):
            api(double, token).create_commit("other/gated", add(a_txt=b"a"), commit_message="x")
        with pytest.raises(HfHubHTTPError, match=status):
            api(double, token).create_repo("other/new")
    with pytest.raises(HfHubHTTPError, match="409"):
        api(double).create_repo("user/secret")


def test_a_card_with_wrong_metadata_is_refused(double: HubDouble) -> None:
    api(double).create_repo("user/name")
    wrong = README.replace("[a]", "a: [")
    with pytest.raises(ValueError, match=r"Invalid metadata in README.md"):
        api(double).create_commit("user/name", add(README_md=wrong.encode()), commit_message="x")


def test_faults_strike_the_nth_request_and_no_other(double: HubDouble) -> None:
    client = api(double)
    client.create_repo("user/name")
    double.faults = [Fault("/api/models/user/name", status=403, nth=2), Fault("/revision/x", drop=True)]
    client.model_info("user/name")
    with pytest.raises(HfHubHTTPError, match="403"):
        client.model_info("user/name")
    client.model_info("user/name")
    with pytest.raises(Exception, match=r"(?i)disconnected"):
        client.model_info("user/name", revision="x")


def test_what_is_accepted_before_the_connection_drops_is_there(double: HubDouble) -> None:
    client = api(double)
    client.create_repo("user/name")
    double.faults = [Fault("/commit/", drop=True, accepted=True), Fault("/commit/", drop=True)]
    for name, there in (("a_txt", True), ("b_txt", False)):
        with pytest.raises(Exception, match=r"(?i)disconnected"):
            client.create_commit("user/name", add(**{name: b"a"}), commit_message="x")
        assert (name.replace("_", ".") in double.files("user/name")) is there
    sent = double.sent()
    assert b"x-amzn-trace-id" in sent.lower() and TOKEN.encode() not in sent
