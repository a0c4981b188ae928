"""One module per kind of raw file; each gives plain tables and counts what it had to leave out."""
