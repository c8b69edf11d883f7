from stages.transfer.method import seed_of


def test_seeds_are_the_same_in_every_process_and_release():
    assert seed_of(0, "noise", 3, 1) == 7491294907676062191
    seeds = {seed_of(0, "noise", identity, sample) for identity in range(50) for sample in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
