"""The embedded world: parametric people and a renderer with two looks.

    head = build_head(sample_traits(identity))
    picture = render(head, sample_scene(identity, sample), "camera")

Every draw is seeded by (seed, identity, sample, purpose): the same person and picture in any process, in any order.
"""

from stages.world.head import Head, build_head
from stages.world.renderer import Look, render
from stages.world.scene import Scene, sample_scene
from stages.world.traits import WORLD_RANGES, Traits, sample_traits

__all__ = ["WORLD_RANGES", "Head", "Look", "Scene", "Traits", "build_head", "render", "sample_scene", "sample_traits"]
