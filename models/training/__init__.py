"""Training: objective, optimizer, step, loop, logs."""
