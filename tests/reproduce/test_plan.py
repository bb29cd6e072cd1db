"""What is run, as data: the paper's rows, the geometry of a budget, settings, and command lines that `vfmseg` takes."""

import json
from dataclasses import replace

import pytest

import vfmseg_cli
from vfmseg_hf.reproduce import PAPER, SMALL, TABLES, Plan, Run, budget_of, own_setting, small_settings


TABLE2 = TABLES["table2"]


def make_plan(budget=SMALL, settings=None, table=TABLE2, **more) -> Plan:
    settings = settings or small_settings(table, budget, "/camvid", "/carla")[0]
    return Plan(table, settings, budget, "/encoder", "0" * 64, **more)


def options(words: list[str]) -> dict[str, str]:
    """Options by name, with the last of those that are given twice."""
    starts = [index for index, word in enumerate(words) if word.startswith("--")]
    ends = [*starts[1:], len(words)]
    return {words[start][2:]: " ".join(words[start + 1 : end]) for start, end in zip(starts, ends, strict=True)}


def test_the_rows_add_one_thing_each():
    told = [options(list(row.train)) for row in TABLE2.rows]
    assert told == [
        {"decoder": "linear", "tune": "none"},
        {"detail_loss_weight": "0"},
        {"feature_mask_ratio": "0"},
        {"feature_mask_ratio": "0.2"},
    ]
    assert [row.refine for row in TABLE2.rows] == ["none", "none", "gated", "gated"]
    for row in TABLE2.rows:  # the fourth is the mean of three
        assert row.paper[3] == pytest.approx(sum(row.paper[:3]) / 3, abs=0.01)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_figures_of_the_paper_are_whole(table):
    """The last of four is the mean of three; what rows are compared by stands in what is printed too."""
    for row in table.rows:
        if len(row.paper) == 4:
            assert row.paper[3] == pytest.approx(sum(row.paper[:3]) / 3, abs=0.01)
        assert all(f"{value:.2f}" in table.published for value in row.paper), row.name
    assert len({row.name for row in table.rows}) == len(table.rows)
    names = [row.name for row in table.rows]
    assert [row.against in names[:index] for index, row in enumerate(table.rows)] == [False] + [True] * (len(names) - 1)


def test_every_row_is_told_the_same_but_for_what_it_adds():
    plan = make_plan()
    setting = plan.settings[0]
    told = [options(plan.train_words(Run(setting, row, 3e-4, 1), "SOURCE", "OUT")) for row in plan.rows]
    own = [{**options(list(row.train))} for row in plan.rows]
    common = [{key: words[key] for key in words if key not in extra} for words, extra in zip(told, own, strict=True)]
    for key in ("window_size", "window_stride"):  # which a linear decoder knows nothing of
        assert key not in common[0] and {words.pop(key) for words in common[1:]} in ({"128"}, {"80"})
    assert "scale_heads" not in common[0] and [words.pop("scale_heads") for words in common[1:]] == ["", "", ""]
    assert common[0] == common[1] == common[2] == common[3]
    assert common[0]["learning_rate"] == common[0]["encoder_learning_rate"] == "0.0003" and common[0]["seed"] == "1"


def test_small_and_large_have_the_geometry_of_the_paper():
    setting = own_setting(PAPER, "gtav:/gtav", None, ["cityscapes:/c"])
    large = make_plan(PAPER, (setting,))
    run = Run(setting, TABLE2.rows[3], 1e-4, 0)
    told = options(large.train_words(run, "gtav:/gtav", "OUT"))
    expected = {"coarse_size": "512", "window_size": "512", "window_stride": "320", "rare_class_min_pixels": "3000"}
    expected |= {"size": "1024 2048", "crop_size": "1024 1024", "max_steps": "40000", "encoder_learning_rate": "1e-05"}
    assert expected.items() <= told.items() and not {"resize", "scale_heads"} & set(told)
    assert told["save_strategy"] == "steps"
    scored = options(large.score_words(run, ["cityscapes=cityscapes:/c"], "OUT", "FILE"))
    assert scored["protocol"] == "published" and "max_images" not in scored
    half = replace(PAPER, size=512)
    told = options(make_plan(half).train_words(Run(own_setting(half, "gtav:/g", None, ["x"]), *run[1:]), "SRC", "OUT"))
    assert (told["window_stride"], told["rare_class_min_pixels"], told["resize"]) == ("160", "750", "720 1280")


def test_images_to_choose_on_keep_their_query():
    spec = "streets:game?n=2&size=64x128@validation"
    for text in (spec, f"own={spec}"):
        assert own_setting(PAPER, "streets:game", text, ["x"]).validation == f"source={spec}"


def test_settings_stand_before_those_that_read_their_targets():
    settings, left_out = small_settings(TABLE2, SMALL, "/camvid", "/carla")
    assert [setting.name for setting in settings] == ["streets", "camvid"] and not left_out
    names = [text.partition("=")[0] for text in settings[0].targets]
    assert names == ["day", "night", "rain", "camera", "carla_rain", "camvid_day", "camvid_dusk"]
    read_later = {settings[1].source, settings[1].validation.partition("=")[2]}
    assert not read_later & {settings[0].source, settings[0].validation.partition("=")[2]}
    assert settings[1].targets == ("camvid_dusk=camvid:/camvid@target_dusk",)


def test_what_is_not_there_is_left_out_and_said():
    settings, left_out = small_settings(TABLE2, SMALL)
    assert [setting.name for setting in settings] == ["streets"] and len(settings[0].targets) == 4
    assert ["--carla" in left_out[0], "--camvid" in left_out[1]] == [True, True]


def test_what_is_chosen_by_sees_no_image_that_others_score():
    held_back = TABLES["strong"]
    settings, left_out = small_settings(held_back, SMALL, "/camvid", "/carla")
    (setting,) = settings
    others = {text for table in TABLES.values() if table is not held_back
              for each in small_settings(table, SMALL, "/camvid", "/carla")[0] for text in each.targets}  # fmt: skip
    assert len(setting.targets) == 4 and not others & set(setting.targets) and "validation images" in left_out[0]


def test_some_rows_have_fewer_seeds():
    plan = make_plan(budget_of(TABLES["table1"], small=True), table=TABLES["table1"])
    rates = dict.fromkeys((row.name for row in plan.rows), 1e-4)
    runs = [run.row.name for run in plan.runs(plan.settings[0], rates)]
    assert runs.count("eomt") == runs.count("rein") == runs.count("strong") == runs.count("vfmseg") == 3
    assert runs.count("segformer-b0") == runs.count("dora") == 1
    made = {*plan.runs(plan.settings[0], rates), *plan.trials(plan.settings[0])}
    assert plan.number_of_runs == len(made) * len(plan.settings)


def test_each_kind_of_model_is_told_what_it_knows():
    plan = make_plan(table=TABLES["table1"])
    told = {}
    for row in plan.rows:
        words = plan.train_words(Run(plan.settings[0], row, 1e-4, 0), "SOURCE", "OUT", "START" if row.config else None)
        told[row.looks] = options(words)
        assert told[row.looks]["model"] == ("START" if row.config else "/encoder")
    assert {"coarse_size", "window_size", "scale_heads"} <= set(told["windows"])
    assert "coarse_size" in told["once"] and not {"window_size", "scale_heads"} & set(told["once"])
    assert not {"coarse_size", "window_size", "scale_heads"} & set(told["alone"])


def test_averages_and_rates_fit_what_is_trained():
    plan = make_plan(table=TABLES["table1"])
    told = {row.name: options(plan.train_words(Run(plan.settings[0], row, 1e-3, 0), "S", "O")) for row in plan.rows}
    assert told["strong"]["ema_decay"] == "0.98", "over 50 of 200 steps, where the recipe has 1,000 of 40,000"
    assert "ema_decay" not in told["vfmseg"]
    long = replace(plan, budget=replace(PAPER, size=256))
    rates = {}
    for row in plan.rows:
        words = options(long.train_words(Run(plan.settings[0], row, 1e-3, 0), "S", "O"))
        rates[row.name] = float(words["encoder_learning_rate"]) / float(words["learning_rate"])
        assert words.get("ema_decay", "0.999") == "0.999"
    random = {row.name for row in plan.rows if row.config}
    assert {name for name, rate in rates.items() if rate == pytest.approx(1)} == random, "nothing there is pretrained"
    assert all(rate == pytest.approx(0.1) for name, rate in rates.items() if name not in random)
    assert "size" not in told["eomt"] and told["eomt"]["crop_size"] == "256 256", "it sees squares as large as crops"


def test_a_protocol_of_vfmseg_is_for_models_without_an_image_processor_of_their_own():
    setting = own_setting(PAPER, "gtav:/gtav", None, ["cityscapes:/c"])
    plan = make_plan(PAPER, (setting,), TABLES["table1"])
    protocols = {
        row.name: options(plan.score_words(Run(setting, row, 1e-4, 0), ["x"], "OUT", "FILE"))["protocol"]
        for row in plan.rows
    }
    alone = {"eomt", "segformer-b0", "mask2former-swin-t"}
    assert {name for name, protocol in protocols.items() if protocol == "default"} == alone


def test_trials_and_runs():
    plan = make_plan()
    setting = plan.settings[0]
    trials = plan.trials(setting)
    assert len(trials) == 12 and {run.seed for run in trials} == {0}
    rates = {"frozen": 1e-3, "vfmnet": 3e-4, "mgrnet": None, "masking": 3e-4}
    runs = plan.runs(setting, rates)
    assert len(runs) == 9 and len(set(runs) & set(trials)) == 3, "those of the first seed are the trials"
    assert [run.row.name for run in runs[:3]] == ["frozen", "vfmnet", "masking"], "a seed after the other"
    assert plan.number_of_runs == 40 and len({run.place for run in [*trials, *runs]}) == 12 + 6


def test_the_estimate_grows_with_all_that_takes_time():
    plan = make_plan()
    minutes = plan.minutes(2)
    assert 30 < minutes < 600 and plan.minutes(1) == pytest.approx(2 * minutes)
    for change in ({"steps": 400}, {"size": 512}, {"seeds": (0, 1, 2, 3)}, {"max_images": 40}, {"batch_size": 8}):
        assert replace(plan, budget=replace(SMALL, **change)).minutes(2) > 1.1 * minutes, change
    assert replace(plan, parameters=300_000_000).minutes(2) > 5 * minutes


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_commands_take_these_words(tmp_path, table):
    """Nothing is misspelt: what judges command lines finds no fault with any of them."""
    known = json.loads((vfmseg_cli.FOLDER / "options.json").read_text())
    (tmp_path / "config.json").touch()
    plan = replace(make_plan(table=table), encoder=str(tmp_path))
    for setting in plan.settings:
        for row in plan.rows:
            run = Run(setting, row, 1e-3, 0)
            vfmseg_cli.judge("train", plan.train_words(run, "streets:game", tmp_path / "model"), known)
            words = plan.score_words(run, ["day=streets:day"], tmp_path, tmp_path / "scores.json", 512)
            vfmseg_cli.judge("evaluate", words, known)
