"""``dimension``: the intrinsic dimension of a dataset's images (the paper's Table 3)."""
