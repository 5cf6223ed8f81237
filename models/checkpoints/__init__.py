"""Weights on disk: checkpoints of TensorFlow 1 and of this project, and files of other programs."""
