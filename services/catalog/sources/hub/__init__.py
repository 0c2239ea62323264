"""A Hugging Face hub, or whatever speaks its API at another address."""
