#!/usr/bin/env python
# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Score a VFMSeg model on domains: mean IoU of the coarse and the final result, at the labels' own sizes.

example:
  python scripts/evaluate.py --model runs/camvid --output scores.json \\
      --domains day=camvid:/data/camvid@source_val dusk=camvid:/data/camvid@target_dusk
"""

import sys
from dataclasses import dataclass, field

from tqdm import tqdm
from transformers import HfArgumentParser

from vfmseg_hf.corpora import corpus_info, load_corpus
from vfmseg_hf.corpora.domains import parse_domains
from vfmseg_hf.evaluation import evaluate_domain, format_domains, write_scores
from vfmseg_hf.prediction import REFINE_MODES, load_model
from vfmseg_hf.training import EvaluationPictures


@dataclass
class EvaluateArguments:
    model: str = field(metadata={"help": "Directory of a saved model, or its name on the Hub."})
    domains: list[str] = field(metadata={"help": "Domains to score: name=corpus@split, any number of them."})
    output: str | None = field(default=None, metadata={"help": "JSON file for the scores and how they were made."})
    refine: str = field(
        default="gated",
        metadata={"help": "Which windows are refined: unsure ones, all, or none.", "choices": list(REFINE_MODES)},
    )
    device: str = field(default="auto", metadata={"help": "Where to compute, e.g. cpu or cuda:1."})


def main() -> None:
    (arguments,) = HfArgumentParser(EvaluateArguments, description=__doc__).parse_args_into_dataclasses()
    model, processor = load_model(arguments.model, arguments.device)
    results = {}
    for name, spec, split in parse_domains(arguments.domains):
        pictures = EvaluationPictures(load_corpus(spec, split), processor, corpus_info(spec).evaluation)
        progress = lambda items, name=name: tqdm(items, desc=name, unit="picture")  # noqa: E731
        results[name] = evaluate_domain(model, pictures, name, REFINE_MODES[arguments.refine], progress)
    print(format_domains(results))
    if arguments.output:
        write_scores(arguments.output, results, model, processor, arguments.refine)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
