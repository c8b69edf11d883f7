import numpy as np
import pytest

from stages.knobs import ParamsError
from stages.params import Params
from stages.transfer.arc2face.knobs import Knobs
from stages.transfer.identity_mixup import mixtures

GRID = tuple(np.linspace(0, 1.05, 21, endpoint=False).tolist())
PEOPLE = range(40, 60)


def test_partners_are_others_and_take_turns():
    """Officially `random.sample`: nobody twice, as long as there are enough."""
    few, many = mixtures(45, PEOPLE, 19, GRID, 0), mixtures(45, PEOPLE, 40, GRID, 0)
    assert sorted(few.partner.tolist()) == [one for one in PEOPLE if one != 45]
    assert sorted(np.unique(many.partner, return_counts=True)[1]) == [2] * 17 + [3, 3]
    assert 45 not in many.partner


def test_shares_are_the_ratios_alike_and_to_three_digits():
    shares = np.concatenate([mixtures(one, PEOPLE, 100, GRID, 0).ratio for one in PEOPLE])
    values, counts = np.unique(shares, return_counts=True)
    assert values.tolist() == [round(0.05 * k, 3) for k in range(21)]
    assert counts.min() > 50  # of 95 expected
    assert mixtures(45, PEOPLE, 3, (0.8,), 0).ratio.tolist() == [0.8] * 3


def test_they_depend_on_identity_seed_and_who_is_chosen_and_on_nothing_else():
    one = mixtures(45, PEOPLE, 19, GRID, 0)
    again = mixtures(45, list(PEOPLE)[::-1], 19, GRID, 0)
    for a, b in zip(one, again, strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(mixtures(45, PEOPLE, 7, GRID, 0).ratio, one.ratio[:7])
    for other in (mixtures(46, PEOPLE, 19, GRID, 0), mixtures(45, PEOPLE, 19, GRID, 1)):
        assert not np.array_equal(other.ratio, one.ratio)
    assert mixtures(45, PEOPLE, 19, (), 0) is None


def test_shares_that_are_none():
    with pytest.raises(ParamsError, match=r"transfer.identity_mixup.1 is 1.1: at most 1"):
        Params(method="arc2face", transfer=Knobs(identity_mixup=(0.5, 1.1)))
