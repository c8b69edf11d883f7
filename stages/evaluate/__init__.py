"""The benchmarks' protocols, complete and exact: `r2r evaluate`.

`readers` read the official distributions, `embeddings` runs the network over their images, and `pairs`, `templates` and
`groups` are the protocols, on the numbers of `metrics`. `stage` puts them together; `results` are what comes out.
"""
