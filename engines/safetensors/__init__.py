"""Text embeddings by encoders of BERT's kind, straight from their safetensors."""
