"""Distributed training: a single process, or several that Horovod connects."""
