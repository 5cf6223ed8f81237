"""From record files to batches: order, shares, augmentation; in training and evaluation."""
