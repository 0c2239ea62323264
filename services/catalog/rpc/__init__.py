"""gRPC servicer of the catalog."""
