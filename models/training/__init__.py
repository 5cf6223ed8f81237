"""From batches to a trained checkpoint: objective, optimiser, step, loop, and what a run tells."""
