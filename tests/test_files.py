"""Result files are whole or not there."""

import pytest

from vfmseg_hf import files


def test_folders_are_made_and_nothing_else_is_left(tmp_path):
    files.write_file(tmp_path / "a" / "b.txt", "text")
    assert (tmp_path / "a" / "b.txt").read_text() == "text"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    def no_space(source, target):
        raise OSError("No space left on device")

    (tmp_path / "b.txt").write_text("old")
    monkeypatch.setattr(files.os, "replace", no_space)
    with pytest.raises(OSError, match="No space"):
        files.write_file(tmp_path / "b.txt", b"new")
    assert (tmp_path / "b.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
