"""Identity mixup (SynFace, Qiu et al. 2021): whose identity is mixed into each of a person's images, and how much.

Each image of an identity has another partner, drawn from all other chosen identities, and a share of its own identity,
drawn from a list (official `data/syn_images.py`: 0, 0.05, ..., 1). A method mixes the two where it owns the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from stages.images import Mixtures
from stages.knobs import check
from stages.transfer.method import seed_of

Share = Annotated[float, Field(ge=0, le=1)]


def check_ratios(ratios: Sequence[float], n_ids: int) -> None:
    """Refuse a mixture of one person.

    Raises:
        ParamsError: there is no other.
    """
    check(not ratios or n_ids > 1, "transfer.identity_mixup mixes two identities, and n_ids is 1")


def mixtures(identity: int, chosen: Sequence[int], images: int, ratios: Sequence[float], seed: int) -> Mixtures | None:
    """The partners and shares of an identity's images; none without ratios.

    Partners do not repeat until all others have had their turn. Shares are rounded to three digits, as they stand in
    SynFace's file names.

    Args:
        identity: its number.
        chosen: all identities, in any order.
        images: n.
        ratios: an image's own identity's share is one of them, all as likely.
        seed: the global seed.
    """
    if not ratios:
        return None
    others = np.setdiff1d(chosen, [identity])
    order = np.random.default_rng(seed_of(seed, "partners", identity)).permutation(others)
    shares = [
        np.random.default_rng(seed_of(seed, "share", identity, number)).choice(ratios) for number in range(images)
    ]
    return Mixtures(order[np.arange(images) % len(order)], np.round(shares, 3))
