"""Distributed training: a single process, or workers that Horovod joins."""
