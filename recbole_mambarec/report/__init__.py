"""Tables and charts from recorded runs: one HTML page, Markdown and LaTeX."""
