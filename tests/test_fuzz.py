"""Wrong values for the keys of the config: each command ends with one clear line, never a traceback or a crash."""

import pytest
from support.fuzz import cases, run_case, small_run


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.slow
def test_wrong_values_end_with_one_line(small, tmp_path):
    endings = {case: run_case(case, small, tmp_path / "case") for case in cases(small.keys, count=60, seed=0)}
    assert not {case: ending for case, ending in endings.items() if not ending.is_clean}
    codes = [ending.code for ending in endings.values()]
    assert codes.count(1) > 12  # otherwise the values are not wrong
