"""What a stage runs on: device, precision, free memory, gradients."""
