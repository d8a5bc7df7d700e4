"""Fails while it is imported, and takes two lines to say so."""

raise RuntimeError("no configuration\nnor a default")
