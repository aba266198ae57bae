"""Encode the corpus, shard by shard, or the queries: python encode.py experiment=nq shard=5"""

from dpr_lightning.commands.encode import encode

if __name__ == "__main__":
    encode()
