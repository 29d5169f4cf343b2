"""Measurements that anyone can repeat; each is a command of its own."""
