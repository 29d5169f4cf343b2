"""The machinery of a run, whatever is trained: loop, optimiser, folder, checkpoints, logs, settings."""
