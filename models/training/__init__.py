"""From batches to a trained checkpoint: objective, optimizer, step, loop, and what a run tells."""
