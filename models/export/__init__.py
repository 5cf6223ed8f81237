"""The network in other forms: SavedModel, ONNX, PyTorch; each compared with the network itself."""
