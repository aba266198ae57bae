"""The report of one evaluation or several: a single HTML file with figures, charts and all questions."""
