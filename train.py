"""Train a bi-encoder into RUN/model: python train.py experiment=nq_untie"""

from dpr_lightning.commands.train import train

if __name__ == "__main__":
    train()
