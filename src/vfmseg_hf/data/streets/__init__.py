# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Procedural street scenes: what is drawn for a seed, and how it looks in each domain. Nothing here knows of datasets.

From the ground up: `canvas` projects and paints polygons, `things` builds with them, `traffic` and `sides` arrange
these along a road, `geometry` makes a scene of a seed; `palette` has the looks as tables, `look` renders a scene.
Version 2 adds `variety` to the things, bends the street in `land`, and changes light and surfaces in `varied_look`.
"""
