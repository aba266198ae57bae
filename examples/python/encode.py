"""Encode a corpus and queries with RUN/model: python examples/python/encode.py RUN CORPUS QUERIES"""

import sys
from pathlib import Path

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.encoding.stage import ShardEncoder
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.run_dir import RunDir

run, corpus, queries = RunDir(Path(sys.argv[1])), open_corpus(sys.argv[2]), open_queries(sys.argv[3])
bi_encoder = load_bi_encoder(run.model)
passage_encoder = ShardEncoder(bi_encoder, corpus, side="passage")
for shard in range(2):
    print(passage_encoder.encode(run.passage_shard(shard, 2), shard=shard, num_shards=2))
print(ShardEncoder(bi_encoder, queries, side="query").encode(run.query_embeddings("test")))
