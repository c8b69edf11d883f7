"""Train a face recognition network on the aligned images.

    r2r train
    dvc exp run -S train.head=arcface -S train.margin=0.5

`stage` is the loop; `backbones` and `heads` are the network and its loss, `data` and `augment` what it sees, `schedule`
how fast it learns, `export` turns the result into an ONNX encoder.
"""
