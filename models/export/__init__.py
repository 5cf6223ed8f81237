"""Exports to SavedModel, ONNX and PyTorch, each compared with the network."""
