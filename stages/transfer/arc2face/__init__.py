"""Digi2Real's realism transfer: identity embeddings to photographs by Arc2Face.

`sampling` says which embeddings an identity's images are asked for, `pipeline` is the generator, `loading` reads its
weights, `method` makes the images of an identity.
"""
