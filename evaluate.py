"""Measure how often a ranking holds an answer: python evaluate.py experiment=nq split=test topk=[1,5,20,100]"""

from dpr_lightning.commands.evaluate import evaluate

if __name__ == "__main__":
    evaluate()
