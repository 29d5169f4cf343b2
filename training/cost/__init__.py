"""Cost of a training step and of a run: measured on the trainer's own step, without weights and without a GPU."""
