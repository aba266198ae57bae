"""Rank the passages for each query: python search.py experiment=nq split=test depth=1000"""

from dpr_lightning.commands.search import search

if __name__ == "__main__":
    search()
