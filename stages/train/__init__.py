"""Train a face recognition network on the aligned images.

    r2r train
    dvc exp run -S train.head=arcface -S train.margin=0.5

`stage` is the loop; `networks` and `heads` are the network and its loss, `data` and `order` what it sees, `recipes`
(`augment`, `randaugment`, `digiface`) how that is augmented, `schedule` how fast it learns; `backbones` reads and
writes checkpoints, `export` makes an ONNX encoder of one, `costs` says what it takes.
"""
