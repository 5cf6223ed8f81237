"""The network in memory: layers, losses, schedules, metrics, training step, checkpoints."""
