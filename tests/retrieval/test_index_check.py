"""FAISS factory strings that crash the interpreter, hang, or build an index that finds nothing are refused."""

import pytest

from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.index_check import check_factory


@pytest.mark.parametrize("factory", ["Flat", "HNSW2,Flat", "IVF4096,Flat", "SQ8", "L2norm,Flat"])
def test_usable_strings_pass(factory):
    check_factory(factory, 16)


@pytest.mark.parametrize(
    "factory",
    ["HNSW1,Flat", "HNSW0,Flat", "IVF0,Flat", "PQ4x0", "OPQ4_0,PQ4", "RQ0x8", "IVF4_HNSW0,Flat", "NSG0,Flat"],
)  # fmt: skip
def test_parameters_that_crash_faiss_are_refused(factory):
    with pytest.raises(UserError, match=rf"^index: '{factory}' has the parameter '.*', which is too small"):
        check_factory(factory, 16)


@pytest.mark.parametrize(
    ("factory", "problem"),
    [
        ("", "could not parse index string"),
        ("nonsense", "could not parse index string nonsense"),
        ("PQ3", "should be a multiple of the number of subquantizers"),
        ("IDMap,Flat", "add does not make sense with IndexIDMap"),
        ("HNSW999999999,Flat", "bad_alloc"),
        ("a\0b", "null byte"),
    ],
)
def test_strings_that_faiss_refuses_are_named_with_its_reason(factory, problem):
    with pytest.raises(UserError, match=problem) as caught:
        check_factory(factory, 16)
    assert "\n" not in str(caught.value)
