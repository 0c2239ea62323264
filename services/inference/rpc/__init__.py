"""gRPC: our service and the Open Inference Protocol."""
