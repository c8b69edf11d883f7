"""render2real: face recognition trained on people who do not exist, one module per stage, in DAG order in `cli`."""
