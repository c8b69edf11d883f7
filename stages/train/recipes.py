"""The augmentation recipes by name (`train.recipe`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from stages.train.augment import augment, synface
from stages.train.digiface import digiface
from stages.train.knobs import DigiFace, Train
from stages.train.randaugment import randaugment

Recipe = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def create_recipe(train: Train, knobs: DigiFace) -> Recipe:
    """What augments an image [h, w, 3] uint8 by its own generator; it can be sent to another process."""
    match train.recipe:
        case "adaface":
            return partial(augment, probability=train.augment, flip=train.flip)
        case "insightface":
            return partial(augment, probability=0.0, flip=train.flip)
        case "randaugment":
            return partial(randaugment, flip=train.flip)
        case "digiface":
            return partial(digiface, knobs=knobs, crop=train.augment, flip=train.flip)
        case "synface":
            return partial(synface, probability=train.augment, flip=train.flip)
