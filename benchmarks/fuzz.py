"""Give every command wrong values for every config key, and print each case that does not end with one clear line.

    python benchmarks/fuzz.py [--cases 2000] [--seed 0]

A command must end with exit code 0, 1 or 2 and at most one line on stderr; exit code 1 if any case does not.
"""

import argparse
import collections
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.fuzz import cases, run_case, small_run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    endings: collections.Counter[int] = collections.Counter()
    unclean = 0
    with tempfile.TemporaryDirectory() as scratch:
        world = small_run(Path(scratch))
        for case in cases(world.keys, count=args.cases, seed=args.seed):
            ending = run_case(case, world, Path(scratch) / "case")
            endings[ending.code] += 1
            if not ending.is_clean:
                unclean += 1
                print(f"{case.command} {case.key}={case.value}: exit code {ending.code}\n{ending.stderr}", flush=True)
    print(f"{args.cases} cases, {unclean} unclean; exit codes {dict(endings)}")
    return 1 if unclean else 0


if __name__ == "__main__":
    sys.exit(main())
