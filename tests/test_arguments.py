"""Config keys become arguments by name, with their types checked and errors in terms of keys."""

from collections.abc import Mapping, Sequence

import pytest

from dpr_lightning.arguments import Arguments, check_type, with_keys
from dpr_lightning.errors import UserError, error_prefix

VALUES = {"depth": 3, "data": {"files": ["a"], "skip": False, "depth": 4}, "data2": {"more": {"k": "v"}}}


def target(files: str | Sequence[str], *, skip: bool = True, depth: int = 1, other: float = 0.5):
    if depth > 9:
        raise UserError(f"depth: {depth} is too much. Lower `depth`, or set `skip`=true; see `paths`.")
    return files, skip, depth, other


def test_a_parameter_takes_its_key_from_the_first_group():
    config = Arguments(VALUES)
    assert config.call(target, "data") == (["a"], False, 4, 0.5)
    assert config.call(target, "", "data") == (["a"], False, 3, 0.5)
    assert config.call(target, "data", other=2.0, depth=7) == (["a"], False, 7, 2.0)
    assert config.call(target, "data", keys={"files": "data2.more.k"})[0] == "v"


def test_errors_name_config_keys():
    config = Arguments({"data": {"files": "a", "skip": False, "depth": 10}})
    expected = "data.depth: 10 is too much. Lower data.depth, or set data.skip=true; see `paths`."
    with pytest.raises(UserError) as caught:
        config.call(target, "data")
    assert str(caught.value) == expected


def test_a_later_error_names_the_key_of_an_earlier_call():
    config = Arguments(VALUES)
    config.call(target, "data")
    assert config.message(UserError("skip: no. Set `files`.")) == "data.skip: no. Set data.files."


def test_arguments_of_a_nested_group_are_named_in_full():
    with pytest.raises(UserError) as caught, error_prefix("lora"):
        raise UserError("r: 0 is too low. Correct `r`.")
    assert with_keys(str(caught.value), {"lora": "model.lora"}) == "model.lora.r: 0 is too low. Correct model.lora.r."


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, int), (1, float), (0.5, float), (None, int | None), ("a", str | Sequence[str]), (["a"], Sequence[str]),
        ({"a": None}, Mapping[str, int | None]), ([1], list[int] | str | int), ("x", object),
        ({"_target_": "x"}, Arguments),
    ],
)  # fmt: skip
def test_a_value_of_the_type_passes(value, hint):
    check_type(value, hint, "key")


@pytest.mark.parametrize(
    ("value", "hint", "wanted"),
    [
        ([1], bool, "true or false"), (1, bool, "true or false"), (True, int, "a whole number"),
        ("1", int, "a whole number"),
        (0.5, int | None, "a whole number or null"), ({"a": 1}, str, "text"),
        (3, Sequence[str], "a list, each entry text"),
        ([3], str | Sequence[str], "text or a list, each entry text"), (2024, Mapping[str, int], "a group of keys"),
        ([], float, "a number"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(value, hint, wanted):
    with pytest.raises(UserError) as caught:
        check_type(value, hint, "a.key")
    assert str(caught.value) == f"a.key: {value!r} is not {wanted}. Correct a.key."


@pytest.mark.parametrize(
    ("value", "hint"),
    [(2**63, int), (-(2**63), int), (10**400, float), (1e31, float), ([1, 2**63], list[int]), (1e31, object)],
)
def test_a_number_that_no_library_takes_is_refused(value, hint):
    with pytest.raises(UserError, match=r"^a\.key: .* is beyond all sensible numbers\. Correct a\.key\.$"):
        check_type(value, hint, "a.key")


@pytest.mark.parametrize("value", [2**63 - 1, 1e30, float("inf"), -float("inf")])
def test_a_large_number_passes(value):
    check_type(value, float, "a.key")
