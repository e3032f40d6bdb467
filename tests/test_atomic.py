"""Files that appear complete or not at all, and what is said of those that cannot."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from separator.atomic import replacing, write_error
from separator.errors import ModelError, ResourceError


def test_a_file_appears_at_the_end_of_the_block_in_a_folder_that_is_made(tmp_path: Path) -> None:
    with replacing(tmp_path / "new" / "m") as file:
        file.write(b"all")
        assert not (tmp_path / "new" / "m").exists()
    assert (tmp_path / "new" / "m").read_bytes() == b"all"
    assert os.listdir(tmp_path / "new") == ["m"]


@pytest.mark.parametrize(("failure", "told"), [
    (OSError(errno.ENOSPC, "No space left on device"), ResourceError),
    (OSError(errno.EIO, "Input/output error"), ModelError),
    (KeyboardInterrupt(), KeyboardInterrupt),
])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, failure: BaseException,
                                            told: type[BaseException]) -> None:
    def write_half() -> None:
        with replacing(tmp_path / "m") as file:
            file.write(b"half")
            raise failure

    (tmp_path / "m").write_text("old")
    with pytest.raises(told):
        write_half()
    assert (tmp_path / "m").read_text() == "old"
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("path", ["file/m", "file/folder/m"])
def test_a_folder_that_is_a_file_is_told_as_such(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("in the way")
    message = "m cannot be written: what should be its folder is a file"
    with pytest.raises(ModelError, match=message), replacing(tmp_path / path):
        raise AssertionError("there is no file to write to")
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    with replacing(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_too_long_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=os.strerror(errno.ENAMETOOLONG)), replacing(tmp_path / ("m" * 300)):
        raise AssertionError("there is no file to write to")


def test_the_hint_is_the_callers_or_holds_for_any_folder() -> None:
    denied = OSError(errno.EACCES, os.strerror(errno.EACCES))
    assert write_error(Path("m"), denied).hint == "choose a folder that you may write to"
    assert write_error(Path("m"), denied, hint="use --out").hint == "use --out"
    assert isinstance(write_error(Path("m"), OSError(errno.EDQUOT, "quota"), hint="use --out"), ResourceError)
