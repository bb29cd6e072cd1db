"""What users write is read as they mean it or refused; result files are whole or not there."""

import json

import pytest
import yaml

from tests.support.commands import start
from vfmseg_hf.data import describe_dataset
from vfmseg_hf.training.model import start_model
from vfmseg_hf.utils import files


SETTINGS = {
    "a: 1\nb: [1, 2]\nc: {d: {e: x}, f: null}\n": "yaml",
    "base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\n": "yaml",
    "- a\n- {a: 0x10, b: 0, c: -7, d: '010', e: 1.5, f: 0o7}\n": "yaml",
    json.dumps({"a": {"b": [{"a": 1}, {"a": 2}]}, "b": 1e3}): "json",
}


@pytest.mark.parametrize("text", SETTINGS)
def test_settings_are_read_as_the_formats_say(text, tmp_path):
    path = tmp_path / f"a.{SETTINGS[text]}"
    path.write_text("\ufeff" + text, encoding="utf-8")  # as some editors begin a file
    assert files.read_settings(path) == (json.loads(text) if path.suffix == ".json" else yaml.safe_load(text))


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.yaml", "a: 1\nb: 2\na: 3\n", "as YAML: line 3: the key 'a' stands twice"),
        ("a.yaml", "ids:\n  car: 1\n  bus: 2\n  'car': 3\n", "as YAML: line 4: the key 'car' stands twice"),
        ("a.yml", "- {a: {b: 1, b: 1}}", "as YAML: line 1: the key 'b' stands twice"),
        ("a.yaml", "0: a\n0: b\n", "line 2: the key 0 stands twice"),
        ("a.json", '{"a": [{"b": 1, "c": 2, "b": 1}]}', "as JSON: the key 'b' stands twice"),
        ("a.json", '{"a": 1', "as JSON: Expecting ',' delimiter"),
        ("a.yaml", "a: [", "as YAML: line 1: "),
        ("a.yaml", "a: 010", "as YAML: line 1: YAML takes 010 for 8; write 8, or quotes around a text"),
        ("a.yaml", "a: 1:30", "YAML takes 1:30 for 90; write 90, or quotes around a text"),
        ("a.yaml", "a: \xff", "as YAML: 'utf-8' codec can't decode"),
    ],
)
def test_what_would_be_lost_or_changed_is_refused_in_one_line(name, text, message, tmp_path):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError) as caught:
        files.read_settings(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name} cannot be read ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("ids:\n  car: 1\n  car: 2\n", "line 5: the key 'car' stands twice"),
        ("ids: {traffic light: 1, Traffic_Light: 2}\n", "one class twice, as 'traffic light' and 'Traffic_Light'"),
        ("colours: {a-b: [1, 2, 3], 'a  B': [3, 2, 1]}\n", "one class twice, as 'a-b' and 'a  B'"),
        ("ids: {car: 1}\nignore: 0\nignore: 255\n", "line 5: the key 'ignore' stands twice"),
    ],
)
def test_nothing_stands_twice_in_the_file_of_a_dataset(text, message, tmp_path):
    (tmp_path / "c.yaml").write_text(f"images: p\nlabels: m\n{text}")
    with pytest.raises(ValueError, match=message):
        describe_dataset(f"folder:{tmp_path}/c.yaml")


def test_every_file_that_users_hand_in_is_read_so(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"num_labels": 3, "num_labels": 4}')
    with pytest.raises(ValueError, match=r"config\.json cannot be read as JSON: the key 'num_labels' stands twice"):
        start_model(str(path))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.json"):
        start_model(str(tmp_path / "nowhere.json"))
    (tmp_path / "w.pth").touch()
    arguments = [str(tmp_path / "w.pth"), str(tmp_path / "out"), "--backbone", "dinov2", "--config", str(path)]
    done = start("convert", *arguments)
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: {path} cannot be read as JSON: the key 'num_labels' stands twice"


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
