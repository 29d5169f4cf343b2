"""Files of weights: which they are, reading, writing, fitting and merging them, and fetching published ones."""
