"""Semantic segmentation on the backbone: DeepLabv3 and its loss."""
