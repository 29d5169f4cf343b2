"""The ablations of OSEDiff's paper (arXiv 2406.08177, section 4) at the embedded model's size: docs/ablations.md."""
