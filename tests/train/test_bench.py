from bench import train


def test_it_runs_at_its_smallest(monkeypatch):
    monkeypatch.setitem(train.BATCH, "iresnet_tiny", 4)
    numbers = train.main(["iresnet_tiny"], "fp32", steps=1, side=64)
    assert set(numbers) == {"threads", *(f"iresnet_tiny_{part}" for part in ("cpu_ms", "overhead", "of_matmul"))}
    assert numbers["iresnet_tiny_cpu_ms"] > 0
