"""Clusters: a batch on Ray Data, on the CPUs and GPUs of this machine or of many. Needs the extra `cluster`."""
