"""Publish a run's model on the Hugging Face hub, with a card that has the figures of its evaluations.

    python scripts/push_to_hub.py RUN OWNER/NAME [--private] [--dry-run]

Uploads RUN/model in one commit. The card is its README.md, with a table of RUN/evaluation/*/metrics.json. `--dry-run`
prints the files and the card and uploads nothing. The hub's token comes from `hf auth login` or HF_TOKEN.
"""

import argparse
import re
from pathlib import Path

from dpr_lightning.errors import UserError, report_user_errors
from dpr_lightning.evaluation.output import read_metrics
from dpr_lightning.model.card import CARD, with_figures
from dpr_lightning.run_dir import RunDir

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def card_of(run: RunDir) -> str:
    """Return the model's card with the figures of all evaluations of the run."""
    evaluations = sorted(file.parent for file in run.evaluations.glob("*/metrics.json"))
    figures = {folder.name: read_metrics(folder) for folder in evaluations}
    return with_figures((run.model / CARD).read_text(encoding="utf-8"), figures)


def push(run: RunDir, name: str, *, private: bool = False, dry_run: bool = False) -> str:
    """Upload the model, or with `dry_run` only say what would be uploaded; return the text to print."""
    if not _NAME.fullmatch(name):
        raise UserError(f"OWNER/NAME: {name!r} is not the name of a repository. Give it like my-name/my-model.")
    if not (run.model / CARD).is_file():
        raise UserError(f"{run.model} has no {CARD}. Train the model, or save it again with this version.")
    files = {str(file.relative_to(run.model)): file for file in sorted(run.model.rglob("*")) if file.is_file()}
    card, size = card_of(run), sum(file.stat().st_size for file in files.values())
    if dry_run:
        lines = [f"{file.stat().st_size:>13,} {path}" for path, file in files.items()]
        return "\n".join([*lines, "", card, f"{name}: {len(files)} files, {size:,} bytes; nothing was uploaded"])
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        content = {**files, CARD: card.encode()}
        additions = [CommitOperationAdd(path, file) for path, file in content.items()]
        commit = api.create_commit(name, additions, commit_message="Upload the model with dpr_lightning")
    except Exception as error:  # the hub's client raises many kinds, among them those of its HTTP library
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{name}: the hub refused the upload ({reason}). Log in with `hf auth login`.") from error
    return f"{commit.commit_url}: {len(files)} files, {size:,} bytes"


def main() -> None:
    """Read the command line, upload and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("name", metavar="OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--dry-run", action="store_true", help="print what would be uploaded")
    args = parser.parse_args()
    with report_user_errors():
        print(push(RunDir(args.run_dir), args.name, private=args.private, dry_run=args.dry_run))


if __name__ == "__main__":
    main()
