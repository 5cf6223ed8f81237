"""Images through a trained network: sources, batches, result files, evaluation."""
