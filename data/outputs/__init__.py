"""Outputs of prediction and evaluation: result files, reports, resumable runs."""
