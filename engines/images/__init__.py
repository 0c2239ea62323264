"""Image classification by ONNX Runtime."""
