"""Small random models of the real classes, and files of them in every layout that is read."""
