"""Scenes that are drawn once: the same pixels as those that are drawn when read, all of them or none."""

import numpy as np
import pytest

from vfmseg_hf.data import classes_of, open_dataset
from vfmseg_hf.data.domains import parse_domain
from vfmseg_hf.reproduce.scenes import SCENES, keep_scenes, place_of


DOMAIN = parse_domain("night=streets:night?n=2&size=32x64&seed=3@test")


def test_what_is_kept_is_what_is_drawn(tmp_path):
    keep_scenes(tmp_path, DOMAIN)
    kept, drawn = open_dataset(place_of(tmp_path, DOMAIN)), open_dataset(DOMAIN.spec, "test")
    assert classes_of(kept) == classes_of(drawn) and kept["file_name"] == drawn["file_name"]
    assert all(cell["data"] for cell in kept.with_format("arrow")[:]["image"].to_pylist()), "nothing is drawn again"
    for ours, theirs in zip(kept, drawn, strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        np.testing.assert_array_equal(ours["label"], theirs["label"])


def test_a_stopped_drawing_leaves_no_folder_and_is_made_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("datasets.Dataset.save_to_disk", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        keep_scenes(tmp_path, DOMAIN)
    assert not any((tmp_path / SCENES).glob("[!.]*"))
    keep_scenes(tmp_path, DOMAIN)
    (folder,) = (tmp_path / SCENES).iterdir()
    before = folder.stat().st_mtime_ns
    keep_scenes(tmp_path, DOMAIN)
    assert folder.stat().st_mtime_ns == before, "what is there is not drawn again"


def test_other_data_stay_where_they_are(tmp_path):
    domain = parse_domain("dusk=camvid:/data/camvid@target_dusk")
    keep_scenes(tmp_path, domain)
    assert place_of(tmp_path, domain) == "camvid:/data/camvid@target_dusk" and not any(tmp_path.iterdir())
    assert place_of(tmp_path, parse_domain("cityscapes:/c")) == "cityscapes:/c"
