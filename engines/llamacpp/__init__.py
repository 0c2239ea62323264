"""Text generation by llama.cpp behind the tensors of the vLLM backend."""
