"""Deploy: endpoints, deployments and the instances that serve them."""
