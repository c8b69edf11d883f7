"""Source, target, benchmarks and weights: got from their publishers, a mirror or a folder, or rendered on the spot."""
