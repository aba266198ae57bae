"""Errors for users: one line on stderr, exit codes, and checks that name the key and the value."""

import pytest

from dpr_lightning.errors import UserError, check_at_least, check_choice, check_positive, report_user_errors


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_only_whole_numbers_of_at_least_one_are_positive(value):
    with pytest.raises(UserError) as caught:
        check_positive(value, "key")
    assert str(caught.value) == f"key: {value!r} is not a whole number of at least 1. Correct `key`."
    check_positive(1, "key")


def test_the_least_number_is_allowed_and_one_less_is_not():
    check_at_least(3, 3, "key")
    with pytest.raises(UserError, match=r"^key: 2 is not a whole number of at least 3\. Correct `key`\.$"):
        check_at_least(3, 2, "key")


def test_a_choice_that_is_not_possible_is_named_with_those_that_are():
    check_choice("b", "key", ["a", "b"])
    for value in ("c", None, ["a"]):
        with pytest.raises(UserError) as caught:
            check_choice(value, "key", ["a", "b"])
        assert str(caught.value) == f"key: {value!r} is not possible. Set `key` to one of: a, b."


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("f, row 1:\n  bad"), 1, "f, row 1: bad\n"),
        (
            PermissionError(13, "Permission denied", "a/b"),
            1,
            "a/b: Permission denied. Correct the path or its permissions.\n",
        ),
        (
            OSError(28, "No space left on device"),
            1,
            "the folder of the output or of its log: No space left on device. Free space there, then run the same "
            "command again.\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_a_mistake_ends_the_process_with_one_line(capsys, error, code, line):
    with pytest.raises(SystemExit) as stop, report_user_errors():
        raise error
    assert stop.value.code == code
    assert capsys.readouterr() == ("", line)


def test_a_defect_keeps_its_traceback(capsys):
    with pytest.raises(ZeroDivisionError), report_user_errors():
        1 / 0  # noqa: B018
    assert capsys.readouterr() == ("", "")
