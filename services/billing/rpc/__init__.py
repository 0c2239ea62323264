"""gRPC servicers of billing."""
