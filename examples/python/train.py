"""Train a bi-encoder into RUN/model: python examples/python/train.py TRAIN_FILE MODEL RUN"""
