"""Fetch the model and the data of an experiment and convert the data, for all later commands.

    python scripts/prepare.py experiment=nq_untie [KEY=VALUE...]

Compute nodes then need no network, and jobs that start at once need not wait for one conversion.
"""

from dpr_lightning.commands.prepare import prepare

if __name__ == "__main__":
    prepare()
