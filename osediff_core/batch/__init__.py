"""Batches of pictures: the record of each, and the work on one, whoever hands it out."""
