"""From the file of runs to a page, tables and charts."""
