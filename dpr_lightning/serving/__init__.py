"""A server of one run: a page to ask questions, and the same answers as JSON."""
