"""The network: layers and losses, and packages for training, checkpoints and metrics."""
