"""The five commands, one per stage: what `dpr-train` and `python train.py` run, and so on."""
