"""The search index of this replica: what a document holds, how it is asked, where it lies."""
