"""How good a ranking is: answers found in its passages, and judged passages."""
