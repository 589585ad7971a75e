"""The starter world: small rendered pictures of which everything is known.

A world is a seed. `render_scene` gives one scene with its truth, `captions_of` its captions, `truth` whether a
caption holds of it, and `write_world` puts a world on disk as images, captions, ratings, labels and masks.
"""

from __future__ import annotations

from glasshouse.plugins.starter.world.captions import captions_of, prompt
from glasshouse.plugins.starter.world.ratings import ratings_of
from glasshouse.plugins.starter.world.scene import Scene, SceneObject, Stream, render_scene
from glasshouse.plugins.starter.world.truth import Caption, truth
from glasshouse.plugins.starter.world.write import write_world

__all__ = [
    "Caption", "Scene", "SceneObject", "Stream", "captions_of", "prompt", "ratings_of", "render_scene",
    "truth", "write_world",
]  # fmt: skip
