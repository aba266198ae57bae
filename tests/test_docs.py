"""The documentation names files that exist."""

import re

from support.world import ROOT


def test_every_path_on_the_architecture_page_exists():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`([a-z_/]+(?:\.py|/))`", text))
    assert len(paths) > 50
    missing = [path for path in paths if not (ROOT / "dpr_lightning" / path).exists() and not (ROOT / path).exists()]
    assert missing == []
