"""Wrong values for the keys of the config: each command ends with one clear line, never a traceback or a crash."""

from itertools import islice

import pytest
from support.fuzz import cases, run_case, small_run

CASES, PARTS = 200, 2


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_wrong_values_end_with_one_line(small, tmp_path, part):
    own = islice(cases(small.keys, count=CASES, seed=0), part, None, PARTS)
    endings = {case: run_case(case, small, tmp_path / "case") for case in own}
    assert not {case: ending for case, ending in endings.items() if not ending.is_clean}
    codes = [ending.code for ending in endings.values()]
    assert codes.count(1) > CASES / PARTS / 5  # otherwise the values are not wrong
