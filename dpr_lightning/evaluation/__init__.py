"""How good a ranking is, by the answers that its passages contain and by judged passages."""
