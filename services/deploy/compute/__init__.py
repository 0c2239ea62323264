"""Where instances run: the provider interface and the provider for this machine."""
