"""Text embeddings by ONNX Runtime."""
