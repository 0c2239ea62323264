"""Text embeddings from a table of token vectors."""
