"""Mechanisms every service uses, and pure values; knows no service and no product noun but the project."""
