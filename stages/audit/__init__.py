"""What a set of faces is worth, before anything is trained on it, and whom it gives away: `r2r audit`.

`vectors` lets a network see a set, `separability` says how far its identities lie apart, `leakage` whether they are too
near to those of a reference set, such as the generator's training people. `command` puts them together.
"""
