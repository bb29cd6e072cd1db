# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Named protocols: how images are resized and what the model does with them, so that two scores can be compared.

What a protocol does not name stays as the checkpoint has it: mean and standard deviation of its images, windows and
thresholds, and whether its coarse pass slides. Labels are never resized, whatever the protocol: logits are.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from huggingface_hub.errors import StrictDataclassError
from PIL.Image import Resampling

from ..model.image_processing_pil_vfmseg import VFMSegImageProcessorMixin
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..model.presets import PUBLISHED_OPTIONS


@dataclass(frozen=True)
class Protocol:
    """
    A way to score.

    Attributes:
        name: as on the command line and in result files.
        text: what it means, for people.
        processor: settings of the image processor that it changes.
        config: fields of [`VFMSegConfig`] that it changes.
    """

    name: str
    text: str
    processor: Mapping[str, object] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)

    def apply(
        self, model: VFMSegForSemanticSegmentation, processor: VFMSegImageProcessorMixin
    ) -> tuple[VFMSegForSemanticSegmentation, VFMSegImageProcessorMixin]:
        """
        Model and image processor as this protocol has them; those given stay as they are.

        Returns:
            The model with a configuration of its own and the same weights, not copies of them; a new image processor.

        Raises:
            ValueError: if the model cannot follow, e.g. because the coarse size does not divide into its patches.
        """
        config = copy.deepcopy(model.config)
        for name in set(self.config).intersection(type(config).__dataclass_fields__):  # others have less to say
            value = self.config[name]
            setattr(config, name, copy.copy(value))
        try:
            config.validate()
        except StrictDataclassError as error:
            raise ValueError(f"the model cannot follow the protocol {self.name!r}: {error.__cause__}") from error
        model = copy.copy(model)
        model.config = config
        return model, type(processor).from_dict({**processor.to_dict(), **self.processor})


def _box(shortest_edge: int, longest_edge: int) -> dict[str, object]:
    """Images fitted into a box, aspect ratio kept, as mmcv resizes them."""
    return {
        "do_resize": True,
        "size": {"shortest_edge": shortest_edge, "longest_edge": longest_edge},
        "resample": int(Resampling.BILINEAR),
        "antialias": False,
    }


# The published code tests one image at a time, where the scopes of its certainty are the same; "image" keeps it so
# whatever batches are made here.
_PUBLISHED_CONFIG = {
    "coarse_size": PUBLISHED_OPTIONS["coarse_size"],
    "keep_at_threshold": PUBLISHED_OPTIONS["keep_at_threshold"],
    "certainty_scope": "image",
}

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "published",
            "as the published code tests DINOv2: images fitted into 2048x1024 with their aspect ratio, bilinear "
            "without antialiasing; coarse pass at 1024x512 whatever the aspect ratio; windows at the threshold kept",
            _box(1024, 2048),
            _PUBLISHED_CONFIG,
        ),
        Protocol(
            "published-1536",
            "as the published code tests CLIP, SAM and EVA02: like `published`, images fitted into 3072x1536",
            _box(1536, 3072),
            _PUBLISHED_CONFIG,
        ),
        Protocol("default", "the checkpoint's own image processor and configuration"),
        # Rein's configurations (w1oves/Rein, configs/_base_/datasets/*_512x512.py) keep the ratio in this box for
        # Cityscapes and Mapillary. They test BDD100K at its own 1280x720, and Mapillary on copies of half the size,
        # labels too.
        Protocol(
            "1024x512",
            "as Rein tests on Cityscapes: images fitted into 1024x512 with their aspect ratio, bilinear without "
            "antialiasing; the same for every dataset, and full-size labels",
            _box(512, 1024),
        ),
        Protocol("native", "images of their own size, not resized at all", {"do_resize": False}),
    )
}
