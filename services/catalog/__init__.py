"""Catalog: collections, publishers, models, versions, instance types. See README.md."""
