"""What runs the platform on one machine: the broker, its identities and topology, and their supervisor."""
