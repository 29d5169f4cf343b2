"""The training of DAPE: a tagger that says of a degraded image what it says of the good one."""
