"""Training for OSEDiff: the embedded model's recipe lives in `training.tiny`."""
