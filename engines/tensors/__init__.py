"""Raw tensors in and out of an ONNX model."""
