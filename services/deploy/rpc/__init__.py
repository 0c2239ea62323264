"""gRPC servicers of deploy."""
