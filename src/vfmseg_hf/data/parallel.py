# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Reading all rows of a dataset once, in several processes, with a progress bar."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from transformers.utils import logging

from ..utils.processes import count_cores


CHUNK = 16  # images per message of a worker, and per step of the progress bar


class Rows(Protocol):
    """What can be read: `rows[index]` is computed where it is asked for, in another process as well."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def read_in_parallel(rows: Rows, num_proc: int | None, title: str) -> Iterator[Any]:
    """
    Yields `rows[0]`, `rows[1]`, ... in this order, computed by several processes.

    tqdm's `process_map` is no substitute: it keeps all results, goes on where their reader has stopped, and sends all
    rows to a process with every chunk.

    Rows should return exceptions instead of raising them: raised in a worker, they would bury their message. No more
    than a few chunks of rows are in memory at a time.

    Args:
        rows: anything with a length and items, that can be sent to another process.
        num_proc: processes that read; 1 reads in this one. By default one per core that may be used, and never more
            than there is work for.
        title: of the progress bar.

    Raises:
        `ValueError`: `num_proc` is less than 1.
    """
    if num_proc is not None and num_proc < 1:
        raise ValueError(f"num_proc must be a whole number from 1 up, or None for one per core, got {num_proc}")
    processes = min(count_cores() if num_proc is None else num_proc, len(rows) // (2 * CHUNK))
    loader = torch.utils.data.DataLoader(
        rows,
        batch_size=CHUNK,
        num_workers=processes if processes > 1 else 0,
        collate_fn=list,
        # Its own, or reading would move the global one, and weights would depend on whether something was kept.
        generator=torch.Generator(),
    )
    if len(rows) == 0:
        return
    with logging.tqdm(total=len(rows), desc=title, unit="image") as bar:
        for chunk in loader:
            yield from chunk
            bar.update(len(chunk))
