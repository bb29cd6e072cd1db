# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""`vfmseg <verb>`: what is wrong with a command line is said at once, before the seconds that importing torch takes.

Nothing here but the standard library, and of the package two files that are read without importing it: the table of all
options that `vfmseg_hf.cli.table` makes of the verbs' parsers, and `vfmseg_hf/cli/options.py`.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


FOLDER = Path(find_spec("vfmseg_hf").submodule_search_locations[0]) / "cli"
HELP, HELP_ALL = ("-h", "--help"), ("--help-all", "--help_all")
USER_ERRORS = (OSError, ValueError, ImportError, FloatingPointError)  # not what is wrong with the library itself
NEW_FOLDER = ("merge", "convert", "fetch-encoder")  # the verbs that write all of a folder, or nothing
CHECKPOINT_FILES = ("config.json", "adapter_config.json")
TEXT_IMAGES = (b"P1", b"P2", b"P3", b"#define", b"/* XPM")  # formats of images that are written as text
HUB_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says; returns the exit status: 2 with one line on stderr for what a user can mend."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        table = json.loads((FOLDER / "options.json").read_text(encoding="utf-8"))
        if not words or words[0] in (*HELP, *HELP_ALL):
            print(overview(table))
            return 0
        if words[0] == "--version":
            print(f"vfmseg {table['version']}")
            return 0
        verb, *rest = words
        if rest and f"{verb} {rest[0]}" in table["verbs"]:
            verb, rest = f"{verb} {rest[0]}", rest[1:]
        if verb not in table["verbs"]:
            near = options.did_you_mean(verb, table["verbs"])
            raise ValueError(f"there is no verb {verb!r}{near or ', only ' + ', '.join(table['verbs'])}")
        asked = rest[: rest.index("--")] if "--" in rest else rest
        if wanted := {*HELP, *HELP_ALL}.intersection(asked):
            print(make_parser(verb, table, hidden=not wanted <= set(HELP)).format_help(), end="")
            return 0
        judge(verb, rest, table)
        return import_module(f"vfmseg_hf.cli.{re.sub('[- ]', '_', verb)}").run(rest)
    except USER_ERRORS as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def one_line(error: Exception) -> str:
    """What an error says, in one line; of one in a process of a data loader, which has its traceback, what that was."""
    _, in_worker, trace = str(error).partition("Original Traceback")
    return " ".join((trace.strip().splitlines()[-1] if in_worker else str(error)).split())


def load_options() -> ModuleType:
    """`vfmseg_hf/cli/options.py`, without its package."""
    spec = spec_from_file_location("vfmseg_cli_options", FOLDER / "options.py")
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


options = load_options()


# --- options ------------------------------------------------------------------------------------------------------


def overview(table: Mapping) -> str:
    """What `vfmseg --help` says."""
    verbs = [f"  {name:<19}{verb['summary']}" for name, verb in table["verbs"].items()]
    return "\n".join(
        [f"{table['summary']}\n\nusage: vfmseg VERB [options]\n", *verbs, "\n`vfmseg VERB --help` has its options."]
    )


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Every option by one name and with its default; other spellings are taken quietly."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        values = "" if action.nargs == 0 else self._format_args(action, action.dest.upper())
        return f"{action.option_strings[0]} {values}".strip()


def make_parser(verb: str, table: Mapping, hidden: bool = False) -> argparse.ArgumentParser:
    """
    The parser of a verb, made of the table.

    Args:
        hidden: whether its help shows the options that few need.
    """
    about = table["verbs"][verb]
    parser = options.Parser(
        prog=f"vfmseg {verb}",
        usage=f"vfmseg {verb} {about['usage']}",
        description=about["description"],
        epilog=about["epilog"],
        formatter_class=HelpFormatter,
        add_help=False,
    )
    parser.refused = about["refused"]
    for group in about["groups"]:
        shown = hidden or not group["hidden"]
        container = parser.add_argument_group(group["title"] if shown else None)
        for option in group["options"]:
            container.add_argument(*option["flags"], **keywords(option, shown))
    if any(group["hidden"] for group in about["groups"]) and not hidden:
        parser.epilog = f"{parser.epilog or ''}\n\n--help-all shows all other options.".lstrip()
    return parser


def keywords(option: Mapping, shown: bool) -> dict[str, object]:
    """How `argparse` adds an option of the table."""
    text, default = option.get("help"), option.get("default")
    if not shown or text is None:
        text = argparse.SUPPRESS
    elif default is not None:
        text += f" (default: {default})"
    result = {"help": text.replace("%", "%%") if text != argparse.SUPPRESS else text}
    result |= {key: option[key] for key in ("dest", "metavar", "required") if key in option}
    if not option["flags"][0].startswith("-"):
        result.pop("dest")
    if option["action"] != "store":
        return {key: value for key, value in result.items() if key != "metavar"} | {"action": option["action"]}
    kind, *about = option["type"]
    known = {"int": int, "float": float, "str": str}
    result["type"] = known[kind] if kind in known else read_type(getattr(options, kind), about)
    result |= {key: option[key] for key in ("nargs", "choices", "const") if key in option}
    return result


def read_type(kind: Callable, about: Sequence[object]) -> Callable:
    return kind(*about) if about else kind


# --- values -------------------------------------------------------------------------------------------------------


def judge(verb: str, words: Sequence[str], table: Mapping) -> None:
    """Raises a `ValueError` or an `OSError` for a command line that cannot work, whatever is in the files it names."""
    arguments = options.settle_positionals(verb, make_parser(verb, table).parse_args(words))
    if verb == "reproduce":
        options.check_reproduction(arguments)
    if verb.startswith("reproduce figure"):
        options.check_figure(arguments)
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    if model := given.get("model"):
        judge_model(model, table["presets"], trains=verb in ("train", "reproduce"), fetches=verb == "fetch-encoder")
    for text in as_list(given.get("models")):
        judge_model(options.named_model(text)[1], table["presets"], trains=False)
    for spec in (spec for name in ("data", "eval_data", "val_data") for spec in as_list(given.get(name))):
        judge_dataset(spec, table["datasets"])
    for path in as_list(given.get("images")):
        if not os.path.exists(path):
            raise FileNotFoundError(f"no such file or folder: {path}")
        if verb == "quickstart":
            judge_image(path)
    if encoder := given.get("encoder"):
        judge_encoder(encoder, table["presets"])
    if "camvid" in given and not os.path.isdir(given["camvid"]):
        raise FileNotFoundError(f"there is no folder {given['camvid']}, where --camvid says that the dataset is")
    for name in ("weights", "config", "class_map", "id2label"):
        if name in given and given[name] not in table["label_sets"]:
            judge_file(given[name])
    if checkpoint := given.get("resume_from_checkpoint"):
        if not os.path.isdir(checkpoint):
            raise ValueError(f"there is no checkpoint {checkpoint!r}; --resume goes on from the last one in --output")
    judge_output(verb, given)


def judge_output(verb: str, given: Mapping) -> None:
    files = ["chart", "json", *(["output"] if verb == "evaluate" else [])]
    for name in files:
        options.check_output_file(given.get(name))
    for name in {"output", "output_dir"}.difference(files).intersection(given):
        (options.check_new_folder if verb in NEW_FOLDER else options.check_output_folder)(given[name])


def as_list(value: object) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def judge_file(path: str) -> None:
    if not os.path.isfile(os.path.expanduser(path)):
        raise FileNotFoundError(f"there is no file {path}")


def judge_image(path: str) -> None:
    """Raises a `ValueError` for a file that is no image at first sight; folders and all others are opened later."""
    if os.path.isdir(path):
        return
    with open(path, "rb") as file:
        start = file.read(256)
    if not start:
        raise ValueError(f"{path} is no image: it is empty")
    is_text = start.isascii() and "".join(start.decode("ascii").split()).isprintable()
    if is_text and not start.startswith(TEXT_IMAGES):
        raise ValueError(f"{path} is no image: it is a text; name photographs, or folders of them")


def judge_encoder(name: str, presets: Sequence[str]) -> None:
    """Raises an error for what is neither `random` nor anything that [`judge_model`] takes for a foundation model."""
    if name != "random":
        judge_model(name, [*presets, "random"], trains=False, fetches=True)


def judge_model(name: str, presets: Sequence[str], trains: bool, fetches: bool = False) -> None:
    """Raises an error for what is neither a folder with a model, nor, to build on, a preset, nor may be a Hub id."""
    if trains and name.endswith(".json"):
        return judge_file(name)
    if os.path.isdir(name):
        if not any(os.path.isfile(os.path.join(name, file)) for file in CHECKPOINT_FILES):
            raise ValueError(f"{name!r} holds no model: there is no config.json in it")
        return None
    if os.path.isfile(name):
        raise ValueError(f"{name!r} is a file; models are folders, or of the Hub: user/name")
    folder, slash, _ = name.partition("/")
    if not slash:
        if (trains or fetches) and name in presets:
            return None
        what = "a preset, which is to be trained first" if name in presets else "no directory"
        near = options.did_you_mean(name, [*presets, *os.listdir()] if trains or fetches else os.listdir())
        raise ValueError(f"{name!r} is {what}{near}; models are folders, or of the Hub: user/name")
    if not re.fullmatch(HUB_ID, name):
        raise FileNotFoundError(f"there is no directory {name!r}{near_path(name)}")
    if os.path.isdir(folder) and not is_cached(name):
        raise FileNotFoundError(
            f"there is no directory {name!r}{near_path(name)} (if it is of the Hub: hf download {name})"
        )
    return None


def is_cached(name: str) -> bool:
    """Whether something of a repository of the Hub is on this machine."""
    home = os.environ.get("HF_HOME", os.path.join("~", ".cache", "huggingface"))
    cache = os.environ.get("HF_HUB_CACHE", os.path.join(home, "hub"))
    return os.path.isdir(os.path.join(os.path.expanduser(cache), f"models--{name.replace('/', '--')}"))


def near_path(path: str) -> str:
    """The end of a message about a path that is not there."""
    folder = Path(path).parent
    names = [str(folder / name) for name in os.listdir(folder)] if folder.is_dir() else []
    return options.did_you_mean(str(Path(path)), names)


def judge_dataset(text: str, datasets: Mapping[str, Mapping]) -> None:
    """Raises an error for `[name=]dataset[:path][?query][@split]` that names nothing that there is."""
    _, spec, split = re.fullmatch(r"(?:([^=:?/]+)=)?(.*?)(?:@([\w-]+))?", text, re.DOTALL).groups()
    if not spec:
        raise ValueError(f"expected [name=]dataset[@split], e.g. dusk=camvid:/data/camvid@target_dusk, got {text!r}")
    place = spec.partition("?")[0]
    if os.path.isfile(place):
        described = place.lower().endswith((".yaml", ".yml", ".json"))
        way = f"write folder:{place}" if described else "own data are described by a file: folder:/path/to/dataset.yaml"
        raise ValueError(f"{place!r} is a file, and no dataset; {way}")
    name, colon, path = place.partition(":")
    if name in datasets:
        known = datasets[name]
        if split and known["splits"] and split not in known["splits"]:
            splits = ", ".join(known["splits"])
            raise ValueError(
                f"{name} has no split {split!r}{options.did_you_mean(split, known['splits'])}, only {splits}"
            )
        if not known["has_path"]:
            return
        if not path:
            raise ValueError(f"{text!r} does not say where {name} is: {known['usage']}")
        if not os.path.exists(os.path.expanduser(path)):
            raise FileNotFoundError(f"there is no {path}, where {text!r} should be{near_path(path)}")
    elif colon and not os.path.exists(spec):
        near = options.did_you_mean(name, datasets) or f", only {', '.join(datasets)}"
        raise ValueError(f"there is no dataset {name!r} in {text!r}{near}")
    elif not colon and not os.path.exists(place) and not os.path.exists(spec):
        if place.startswith((".", "/", "~")) or place.count("/") > 1:
            raise FileNotFoundError(f"there is no {place}{near_path(place)}")


if __name__ == "__main__":
    sys.exit(main())
