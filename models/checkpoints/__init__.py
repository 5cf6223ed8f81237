"""Reading and writing weights: TensorFlow 1 and our checkpoints, and other formats."""
