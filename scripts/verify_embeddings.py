"""Read embedding files completely and compare them with the checksums that they store.

    python scripts/verify_embeddings.py FILE_OR_FOLDER ...

Prints one line per file; the exit code is 1 if any is damaged.
"""

import argparse
import sys
from pathlib import Path

from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.errors import UserError


def main() -> int:
    """Read the command line, print a line for each file and return the exit code."""
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
