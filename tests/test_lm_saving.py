"""A full disk while weights are written is an OSError that the chain can say plainly; other errors stay themselves."""

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from posttrain.lm.saving import disk_full_as_oserror


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB, where this machine lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)  # lazily: a failed writer may hold its file


@pytest.mark.parametrize("writer", ["safetensors", "torch", "tokenizers"])
def test_a_full_disk_is_an_oserror_whoever_writes(small_disk: Path, writer: str) -> None:
    weights = torch.zeros(500_000)

    def write() -> None:
        if writer == "torch":
            torch.save(weights, small_disk / "x.pt")
        elif writer == "tokenizers":
            Tokenizer(WordLevel({f"word{i}": i for i in range(50_000)})).save(str(small_disk / "tokenizer.json"))
        else:
            save_file({"x": weights}, small_disk / "x.safetensors")

    with pytest.raises(Exception, match=r"(?i)no space|pos") as plain:
        write()
    assert not isinstance(plain.value, OSError), "should a library raise OSError by itself one day, its sign can go"
    with pytest.raises(OSError, match="no space left") as told, disk_full_as_oserror(small_disk):
        write()
    assert told.value.errno == errno.ENOSPC


def test_another_error_of_a_writer_stays_what_it_is(tmp_path: Path) -> None:
    for error in (RuntimeError("shapes differ"), KeyboardInterrupt(), PermissionError(errno.EACCES, "no")):
        with pytest.raises(type(error)), disk_full_as_oserror(tmp_path):
            raise error
