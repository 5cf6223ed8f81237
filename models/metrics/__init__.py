"""Evaluation metrics: exact, for any number of images and workers."""
