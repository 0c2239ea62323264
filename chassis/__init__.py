"""Mechanisms every service uses, and the pure values their rules are written in."""
