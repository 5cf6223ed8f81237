"""From record files to batches: order, shards, augmentation; in training and evaluation."""
