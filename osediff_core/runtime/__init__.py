"""Runtime of a stage: device, precision, free memory, gradients."""
