# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Runs on disk: a training and its scores in a folder, what they were told, how they ended, how long they took."""

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from ..data.domains import parse_domain
from ..evaluation import software_versions
from ..utils.files import write_file
from .plan import Plan, Run
from .processes import Commands


RECORD, MODEL = "run.json", "model"
FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
TRAIN, SOURCE, TARGETS = "train", "source", "targets"

Scores = Mapping[str, Mapping[str, object]]  # by domain, as `vfmseg evaluate --output` writes them


@dataclass(frozen=True)
class Outcome:
    """
    How a command of a run ended.

    Attributes:
        status: `"finished"`, `"failed"` or `"stopped"`.
        reason: of a failure, in a line.
        seconds: that it has run, with what was resumed.
        threads: that it had.
        made: whether it ran now; otherwise it was there.
    """

    status: str
    reason: str | None = None
    seconds: float = 0.0
    threads: int = 1
    made: bool = False

    @property
    def finished(self) -> bool:
        return self.status == FINISHED


class RunFolder:
    """
    The folder of a run. A command is known by its words, without those that name the folder itself, and by the hash of
    the encoder's weights; what is finished is not made again.
    """

    def __init__(self, output: Path, run: Run, plan: Plan):
        self.run, self.plan, self.output, self.path = run, plan, output, output / run.place

    @property
    def model(self) -> Path:
        return self.path / MODEL

    @property
    def start(self) -> Path | None:
        """The configuration of a row that starts from random weights."""
        config = self.run.row.config
        if not config:
            return None
        content = hashlib.sha256(config.encode()).hexdigest()[:8]  # a run is known by its words, and this is one
        return self.output / "configurations" / f"{self.run.row.name}-{content}.json"

    def steps(self) -> dict[str, dict[str, object]]:
        """The record of every command that has been started, by name."""
        file = self.path / RECORD
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def outcome(self, step: str) -> Outcome | None:
        """How a command ended; None if it never has."""
        known = self.steps().get(step)
        if known is None:
            return None
        return Outcome(known["status"], known["reason"], known["seconds"], known["threads"])

    def scores(self, step: str) -> Scores | None:
        """The scores that a command has written, by domain; None without them."""
        outcome = self.outcome(step)
        if outcome is None or not outcome.finished:
            return None
        return json.loads((self.path / f"{step}.json").read_text(encoding="utf-8"))["domains"]

    def check(self, source: str) -> None:
        """
        Raises a `ValueError` if a training of other arguments is in it, finished or with a checkpoint; nothing is
        trained on top of that.
        """
        known = self.steps().get(TRAIN)
        if known is None or not (known["status"] == FINISHED or self._has_checkpoint()):
            return
        words = without_workers(self._known_words(self._train_words(source)))
        if self._told(words) != self._as_told(known):
            kept = without_workers(known["words"])
            if kept == words:
                what = f"the encoder {known['encoder_sha256'][:12]}, not {self.plan.encoder_sha256[:12]}"
            else:
                what = _difference(kept, words)
            raise ValueError(
                f"{self.path} holds a run with {what}; give the arguments that it has, or another --output"
            )

    def train(self, source: str, commands: Commands) -> Outcome:
        """Train, or go on with it."""
        if self.start is not None:
            write_file(self.start, self.run.row.config + "\n")
        return self._perform(TRAIN, "train", self._train_words(source), ["--resume"], commands)

    def _train_words(self, source: str) -> list[str]:
        return self.plan.train_words(self.run, source, self.model, self.start)

    def score(self, step: str, domains: Sequence[str], commands: Commands, resolution: int | None = None) -> Outcome:
        """
        Score the trained model.

        Args:
            step: a name for these scores, which are then in `<step>.json`.
            domains, resolution: as for [`Plan.score_words`].
        """
        file = self.path / f"{step}.json"
        words = self.plan.score_words(self.run, domains, self.model, file, resolution)
        return self._perform(step, "evaluate", words, [], commands)

    def score_each(
        self, step: str, domains: Sequence[str], commands: Commands, resolution: int | None = None
    ) -> list[Outcome]:
        """As [`RunFolder.score`]; if that fails, every domain by itself: one that cannot be read costs no other."""
        together = self.score(step, domains, commands, resolution)
        if together.status != FAILED or len(domains) == 1:
            return [together]
        return [self.score(f"{step}-{parse_domain(domain).name}", [domain], commands, resolution) for domain in domains]

    def scores_of_each(self, step: str) -> Scores:
        """The scores of [`RunFolder.score_each`], of all domains that have some."""
        if together := self.scores(step):
            return together
        alone = [self.scores(name) for name in self.steps() if name.startswith(f"{step}-")]
        return {name: scores for found in alone for name, scores in (found or {}).items()}

    def failures(self, wanted: Collection[str]) -> dict[str, str]:
        """
        Why commands have failed, by name; without those that were made again, in parts or as a whole.

        Args:
            wanted: names of the commands that are asked for; others may be of an earlier call.
        """
        steps = {name: known for name, known in self.steps().items() if name.partition("-")[0] in wanted}
        failed = {name: known for name, known in steps.items() if known["status"] != FINISHED}
        parts = {name for name in steps if "-" in name}
        again = {part.partition("-")[0] for part in parts}
        again |= {part for part in parts if part.partition("-")[0] not in failed}
        return {name: str(known["reason"] or known["status"]) for name, known in failed.items() if name not in again}

    def _perform(
        self, step: str, verb: str, words: Sequence[str], beside: Sequence[str], commands: Commands
    ) -> Outcome:
        known, before = self.steps().get(step), self.outcome(step)
        told = self._told(self._known_words(words))
        same = known is not None and self._as_told(known) == told
        if same and before.finished:
            return before
        log = self.path / f"{step}.log"
        earlier = 0.0
        if same and beside and self._has_checkpoint():  # it goes on from there, and what it took to get there counts
            earlier = before.seconds
            if (started := known.get("started")) is not None and log.is_file():  # nobody was there to see its end
                earlier += max(0.0, log.stat().st_mtime - started)
        self._write(step, told, Outcome(STOPPED, seconds=earlier, threads=commands.threads), started=time.time())
        log.write_bytes(b"")
        start = time.monotonic()
        status = commands([verb, *words, *beside], log)
        seconds = earlier + time.monotonic() - start
        state = STOPPED if status is None else FAILED if status else FINISHED
        reason = _reason(log, status) if state == FAILED else None
        outcome = Outcome(state, reason, seconds, commands.threads, made=True)
        self._write(step, told, outcome)
        return outcome

    def _known_words(self, words: Sequence[str]) -> list[str]:
        """Without the places that a moved folder would change."""
        return [word.replace(f"{self.path}/", "").replace(f"{self.output}/", "") for word in words]

    def _told(self, words: list[str]) -> tuple[list[str], str]:
        return without_workers(words), self.plan.encoder_sha256

    @staticmethod
    def _as_told(known: Mapping[str, object]) -> tuple[list[str], str]:
        return without_workers(known["words"]), known["encoder_sha256"]

    def _has_checkpoint(self) -> bool:
        return self.model.is_dir() and get_last_checkpoint(str(self.model)) is not None

    def _write(self, step: str, told: tuple[list[str], str], outcome: Outcome, started: float | None = None) -> None:
        record = {
            "words": told[0],
            "encoder_sha256": told[1],
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": outcome.seconds,
            "threads": outcome.threads,
            "started": started,  # while it runs
            "made_by": made_by(),
        }
        write_file(self.path / RECORD, json.dumps({**self.steps(), step: record}, indent=2) + "\n")


def _difference(kept: Sequence[str], asked: Sequence[str]) -> str:
    """What two lists of options differ in first, in words."""
    ours, theirs = ({**_options(words)} for words in (asked, kept))
    for name in [*theirs, *ours]:
        if ours.get(name) != theirs.get(name):
            was, now = (" ".join([name, *found[name]]) if name in found else f"no {name}" for found in (theirs, ours))
            return f"{was}, not {now}"
    return "other arguments"


def _options(words: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words:
        if word.startswith("--"):
            values = found[word] = []
        else:
            values.append(word)
    return found


def without_workers(words: Sequence[str]) -> list[str]:
    """Options without the number of processes that read images, which changes nothing of what comes out."""
    workers = {"--dataloader_num_workers", "--num_workers"}
    return [word for before, word in pairwise(["", *words]) if word not in workers and before not in workers]


def made_by() -> str:
    """The code that runs now, in words."""
    return ", ".join(f"{name} {version}" for name, version in software_versions("peft").items())


def _reason(log: Path, status: int) -> str:
    """Why a command failed: what it says last."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
    if said:
        return said
    if status < 0:
        return f"killed by signal {-status}" + (", perhaps for want of memory" if status == -9 else "")
    last = lines[-1] if lines else "it says nothing"
    return f"status {status}: {last[-300:]}"
