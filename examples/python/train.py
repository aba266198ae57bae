"""Train a bi-encoder into RUN/model: python examples/python/train.py TRAIN_FILE MODEL RUN"""

import sys
from functools import partial
from pathlib import Path

from pytorch_lightning import Trainer
from torch.optim import AdamW

from dpr_lightning.data.datamodule import RetrievalDataModule
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.run_dir import RunDir
from dpr_lightning.training import fit, module, schedule
from dpr_lightning.training.losses.in_batch import InBatchLoss

run, bi_encoder = RunDir(Path(sys.argv[3])), load_bi_encoder(sys.argv[2])
data = RetrievalDataModule(bi_encoder.inputs, train=sys.argv[1], batch_size=8)
adamw, linear = partial(AdamW, lr=1e-5), schedule.linear_warmup
retriever = module.RetrieverModule(bi_encoder, InBatchLoss(), optimizer=adamw, scheduler=linear)
print(fit.fit(fit.make_trainer(partial(Trainer, max_epochs=1), retriever, data, run=run), retriever, data, run=run))
