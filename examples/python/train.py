"""Train a bi-encoder into RUN/model: python examples/python/train.py TRAIN_FILE MODEL RUN"""

import sys
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch

from dpr_lightning import data, model, run_dir, training
