"""Train a bi-encoder into RUN/model: python examples/python/train.py TRAIN_FILE MODEL RUN"""
import sys
from functools import partial
from pathlib import Path
from pytorch_lightning import Trainer
from torch.optim import AdamW
from dpr_lightning.data.datamodule import RetrievalDataModule
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.run_dir import RunDir
from dpr_lightning.training import fit
from dpr_lightning.training.losses.in_batch import InBatchLoss
from dpr_lightning.training.module import RetrieverModule
from dpr_lightning.training.schedule import linear_warmup
train_file, model, run_dir = sys.argv[1:]
