"""Inference: loading a checkpoint, folding batch norm, prediction."""
