# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What is worth knowing about the files of a corpus, though nothing is wrong with them."""

from transformers.utils import logging


logger = logging.get_logger(__name__)


def notify(text: str) -> None:
    """Warns, once for every text."""
    logger.warning_once(text)
