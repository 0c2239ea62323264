"""Reading and writing the catalog's rows; one file a topic."""
