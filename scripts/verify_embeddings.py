"""Reads embedding files whole and compares them with the checksums that they hold.

    python scripts/verify_embeddings.py FILE_OR_FOLDER ...

One line for each file; exit code 1 if one is damaged.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.errors import UserError


def main() -> int:
    """Reads the command line, prints a line for each file and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", metavar="FILE_OR_FOLDER")
    damaged = 0
    for path in parser.parse_args().paths:
        for file in sorted(path.rglob("*.safetensors")) or [path] if path.is_dir() else [path]:
            try:
                embeddings = open_embeddings(file)
                embeddings.verify()
                print(f"{file}: {len(embeddings.ids):,} rows, intact", flush=True)
            except UserError as error:
                print(error, file=sys.stderr, flush=True)
                damaged += 1
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(main())
