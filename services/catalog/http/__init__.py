"""What the catalog serves over HTTP: files, and nothing else."""
