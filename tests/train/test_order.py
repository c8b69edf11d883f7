from dataclasses import replace

import numpy as np
import pytest

from stages.train import order as module
from stages.train.order import Order, batches, epoch_steps


def plain(images, **knobs):
    return Order(np.zeros(images, int), np.arange(images) // 2, np.arange(images), **{"seed": 0, **knobs})


def numbers(order, epoch=0):
    return order(epoch)[:, 0].tolist()


def test_an_epoch_is_a_permutation_and_epochs_differ():
    keys = list(batches(plain(12), batch_size=4, start=0, stop=6))
    epochs = [[index for batch in keys[k : k + 3] for _, index, _ in batch] for k in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]
    assert [batch[0][0] for batch in keys] == [0, 0, 0, 1, 1, 1]
    assert numbers(plain(12)) != numbers(plain(12, seed=1))


def test_the_order_of_one_set_is_numpys_permutation():
    """As ever: trainings of before are repeated to the byte."""
    for epoch in range(3):
        assert numbers(plain(50, seed=5), epoch) == np.random.default_rng([5, 1, epoch]).permutation(50).tolist()


@pytest.mark.parametrize("knobs", [{}, {"buffer": 6}, {"weights": (1.5,)}, {"balanced": True}])
def test_batches_from_the_middle_are_the_same(knobs):
    order = plain(14, seed=5, **knobs)
    whole = list(batches(order, batch_size=4, start=0, stop=9))
    assert list(batches(order, batch_size=4, start=4, stop=9)) == whole[4:]
    assert all(len(batch) == 4 for batch in whole)


def test_the_last_batch_is_kept_or_dropped():
    assert (epoch_steps(14, 4), epoch_steps(14, 4, keep=True), epoch_steps(12, 4, keep=True)) == (3, 4, 3)
    order = plain(14, seed=5)
    keys = list(batches(order, batch_size=4, start=0, stop=8, keep=True))
    assert [len(batch) for batch in keys] == [4, 4, 4, 2] * 2
    assert [batch[0][0] for batch in keys] == [0] * 4 + [1] * 4
    assert sorted(index for batch in keys[4:] for _, index, _ in batch) == list(range(14))
    dropped = list(batches(order, batch_size=4, start=0, stop=3))
    assert dropped == keys[:3]  # the same order
    assert list(batches(order, batch_size=4, start=5, stop=8, keep=True)) == keys[5:]


def test_shards_are_read_a_run_after_the_other_within_the_buffer(monkeypatch):
    """At any time an epoch is among the images of few runs; without a buffer to speak of, of one."""
    monkeypatch.setattr(module, "RUN", 50)
    place = np.random.default_rng(0).permutation(1000)  # identities lie anywhere
    order = replace(plain(1000), place=place)
    for buffer in (1, 200):
        shuffled = replace(order, buffer=buffer)
        shown = place[numbers(shuffled)]
        assert sorted(shown) == list(range(1000))
        run = shown // 50
        span = max(
            len(set(run[:k]) & set(run[k:]))  # begun and not at their end
            for k in range(0, 1000, 10)
        )
        assert span <= 1 + (buffer + 49) // 50
        first = list(dict.fromkeys(run.tolist()))
        assert first != sorted(first)  # runs in random order
        assert numbers(shuffled) != numbers(shuffled, 1)
    assert len(set(run[400:432])) >= 4  # a batch of 32 is of several runs
    assert np.all(np.diff(place[numbers(replace(order, buffer=1))].reshape(20, 50), axis=1) == 1)


def test_the_weight_of_a_source_is_how_often_it_is_shown():
    source = np.repeat([0, 1, 2], [10, 4, 6])
    order = Order(source, np.arange(20), np.arange(20), 0, weights=(1.0, 2.5, 0.5))
    assert len(order) == 10 + 10 + 3
    for epoch in range(4):
        shown = order(epoch)
        times = np.bincount(shown[:, 0], minlength=20)
        assert times[:10].tolist() == [1] * 10
        assert sorted(times[10:14]) == [2, 2, 3, 3]
        assert sorted(times[14:]) == [0, 0, 0, 1, 1, 1]
        assert len({tuple(key) for key in shown.tolist()}) == 23  # each showing has its number
        assert all(sorted(shown[shown[:, 0] == image, 1]) == list(range(times[image])) for image in range(20))
    chosen = {tuple(np.flatnonzero(np.bincount(order(epoch)[:, 0], minlength=20)[14:])) for epoch in range(8)}
    assert len(chosen) > 2  # each epoch has its own


def test_balanced_shows_identities_equally_often_and_their_images_too():
    """Two sources; people of 1, 2, 9 and of 3, 5 images."""
    label = np.repeat(np.arange(5), [1, 2, 9, 3, 5])
    source = np.repeat([0, 1], [12, 8])
    for weights, quotas in (((1.0, 1.0), ([4, 4, 4], [4, 4])), ((1.0, 1.125), ([4, 4, 4], [4, 5]))):
        order = Order(source, label, np.arange(20), 3, weights, balanced=True)
        more = set()
        for epoch in range(6):
            images = order(epoch)[:, 0]
            people = np.bincount(label[images], minlength=5)
            assert (people[:3].tolist(), sorted(people[3:])) == quotas
            times = np.bincount(images, minlength=20)
            assert all(np.ptp(times[label == person]) <= 1 for person in range(5))
            more.add(int(people[3:].argmax()))
        assert len(more) == (1 if weights[1] == 1 else 2)
