"""The recipes of the embedded models, over the general trainer."""
