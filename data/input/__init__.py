"""From record files to batches: sampling, sharding, augmentation; for training and evaluation."""
