"""Train a bi-encoder into RUN/model: python examples/python/train.py TRAIN_FILE MODEL RUN"""

import sys
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch

from dpr_lightning.data.datamodule import RetrievalDataModule
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.run_dir import RunDir
from dpr_lightning.training import fit, module, schedule
from dpr_lightning.training.losses.in_batch import InBatchLoss

bi_encoder, run = load_bi_encoder(sys.argv[2]), RunDir(Path(sys.argv[3]))
data, adamw = RetrievalDataModule(bi_encoder.inputs, train=sys.argv[1]), partial(torch.optim.AdamW, lr=1e-5)
retriever = module.RetrieverModule(bi_encoder, InBatchLoss(), optimizer=adamw, scheduler=schedule.linear_warmup)
trainer = fit.make_trainer(partial(pl.Trainer, max_epochs=2), retriever, data, run=run)
print(fit.fit(trainer, retriever, data, run=run))
