"""Exports to SavedModel, ONNX and PyTorch; compares each export with the network."""
