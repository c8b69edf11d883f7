import numpy as np
import pytest

from stages.embed.prototypes import SourceEmbeddings, identity_sums, source_shards
from stages.store import StoreError, write_shard

RNG = np.random.default_rng(0)


def test_identity_sums_over_shards(tmp_path) -> None:
    rows = RNG.standard_normal((6, 4)).astype(np.float32)
    write_shard(tmp_path / "a.h5", {"identity": np.array([9, 3, 9]), "embedding": rows[:3]})
    write_shard(tmp_path / "b.h5", {"identity": np.array([5, 5, 5]), "embedding": rows[3:]})
    identities, sums, counts = identity_sums([tmp_path / "b.h5", tmp_path / "a.h5"])
    assert (identities.tolist(), counts.tolist()) == ([3, 5, 9], [1, 3, 2])
    np.testing.assert_allclose(sums, [rows[1], rows[3:].sum(0), rows[0] + rows[2]], atol=1e-6)


def test_an_identity_in_two_shards_is_an_error(tmp_path) -> None:
    for name in "ab":
        write_shard(tmp_path / f"{name}.h5", {"identity": np.array([4]), "embedding": np.ones((1, 2))})
    with pytest.raises(StoreError, match="identity 4"):
        identity_sums(tmp_path.glob("*.h5"))


@pytest.fixture
def source(tmp_path):
    """Identities 3 and 9 in one shard, their images in no order, and 5 in another."""
    identity, sample = np.array([9, 3, 9, 3, 9]), np.array([2, 1, 0, 0, 1], np.int32)
    rows = RNG.standard_normal((6, 4)).astype(np.float32)
    folder = tmp_path / "data/embed/source"
    write_shard(folder / "a.h5", {"identity": identity, "sample": sample, "embedding": rows[:5]})
    write_shard(folder / "b.h5", {"identity": np.array([5]), "sample": np.array([7]), "embedding": rows[5:]})
    return tmp_path, rows


def test_an_identitys_embeddings_come_in_the_order_of_its_images(source):
    root, rows = source
    embeddings = SourceEmbeddings(root)
    np.testing.assert_array_equal(embeddings.of(9), rows[[2, 4, 0]])
    np.testing.assert_array_equal(embeddings.of(3), rows[[3, 1]])
    np.testing.assert_array_equal(embeddings.of(5), rows[[5]])


def test_what_is_not_there_is_named(source, tmp_path):
    with pytest.raises(StoreError, match="identity 7 has no embeddings; run `r2r embed`"):
        SourceEmbeddings(source[0]).of(7)
    (tmp_path / "empty").mkdir()
    for read in (SourceEmbeddings, source_shards):
        with pytest.raises(StoreError, match="no shards; run `r2r embed` first"):
            read(tmp_path / "empty")
    with pytest.raises(StoreError, match="no shards; run `r2r embed` first"):
        identity_sums([])


def test_an_identity_in_two_shards_is_refused_by_both_names(source):
    root, _ = source
    folder = root / "data/embed/source"
    (folder / "c.h5").write_bytes((folder / "b.h5").read_bytes())
    with pytest.raises(StoreError, match=r"identity 5 is in b\.h5 and in c\.h5"):
        SourceEmbeddings(root)
