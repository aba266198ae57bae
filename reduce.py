"""Merge the rankings of all shards: python reduce.py experiment=nq split=test"""

from dpr_lightning.commands.reduce import reduce

if __name__ == "__main__":
    reduce()
