"""An engine that gives back what it got, for measuring everything around it."""
