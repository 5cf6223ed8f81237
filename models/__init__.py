"""The network in memory: its layers and losses; around them training, checkpoints, metrics."""
