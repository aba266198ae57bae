"""The answer rules against plain restatements: token lists for `string`, `re.search` for `regex`."""

import re
import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.answers import answer_finder, answer_problem, answer_spans

SIMPLE_TOKEN = regex.compile(
    r"([\p{L}\p{N}\p{M}]+)|([^\p{Z}\p{C}])", regex.IGNORECASE | regex.UNICODE | regex.MULTILINE
)


def has_string(answers, text):
    """DPR's rule token by token; an answer without tokens never matches (in DPR's program: always)."""

    def tokens(value):
        return [match[0].lower() for match in SIMPLE_TOKEN.finditer(unicodedata.normalize("NFD", value))]

    words = tokens(text)
    for answer in map(tokens, answers):
        if answer and any(words[i : i + len(answer)] == answer for i in range(len(words) - len(answer) + 1)):
            return True
    return False


def found(answers, text, rule="string"):
    return answer_finder(answers, rule=rule, qid="q7")(text)


LETTERS = st.text(st.sampled_from(list("abAéE\u0301İßΣς1²½-'. \t\n\x00\u00a0\u200b日本🙂_")), max_size=12)


@settings(max_examples=400)
@given(st.lists(LETTERS, max_size=3), st.one_of(LETTERS, st.text(max_size=30)))
def test_string_rule_is_the_naive_one(answers, text):
    assert found(answers, text) == has_string(answers, text)


@settings(max_examples=200)
@given(st.text(max_size=6), st.text(max_size=6), st.text(min_size=1, max_size=6))
def test_string_rule_is_the_naive_one_where_the_answer_is_inside(before, after, answer):
    text = f"{before} {answer} {after}"
    assert found([answer], text) == has_string([answer], text)


@pytest.mark.parametrize(
    ("answer", "text", "is_there"),
    [
        ("Charles Darwin", "It was CHARLES darwin's book.", True),
        ("Charles Darwin", "Charles Robert Darwin", False),
        ("Charles Darwin", "Darwin, Charles", False),
        ("Darwin", "Darwinism", False),
        ("art", "a cart", False),
        ("Beyoncé", "Beyonce\u0301 sang", True),
        ("Beyonce", "Beyoncé sang", False),
        ("U.S.", "the U . S . army", True),
        ("U.S.", "the US army", False),
        ("24-7", "open 24 - 7", True),
        ("24-7", "open 24/7", False),
        ("New\nYork", "new\u00a0 york", True),
        ("x\x00y", "x\x00y", True),
        ("x y", "x\x00y", True),
        ("strasse", "Straße", False),
        ("\u200b", "anything", False),
        (" ", "any thing", False),
        ("", "", False),
    ],
)
def test_string_rule_on_single_cases(answer, text, is_there):
    assert found([answer], text) is is_there
    assert found(["absent", answer], text) is is_there


def test_no_answers_never_match():
    assert not found([], "text")
    assert not found([], "text", "regex")


@pytest.mark.parametrize(
    ("pattern", "text", "is_there"),
    [
        (r"19\d\d", "in 1957", True),
        (r"19\d\d", "in 1857", False),
        (r"charles\s+(robert\s+)?darwin", "CHARLES Robert Darwin", True),
        (r"Beyoncé", "Beyonce\u0301", True),
        (r"^second", "first\nsecond", True),
        (r"first.second", "first\nsecond", False),
        (r"art", "a cart", True),
        (r"[[a]b]", "[b]", True),  # Python warns that it may interpret this differently one day
        (r"москва", "в МОСКВЕ и МОСКВА", True),
        (r"ΑΘΉΝΑ", "αθήνα", True),
        (r"^\w+$", "日本", True),
        (r"\bстранa?", "встреча стран", True),
        (r"\W", "日本", False),
        (r"\d{2}", "٤٢", True),
    ],
)
def test_regex_rule(pattern, text, is_there):
    assert found([pattern], text, "regex") is is_there
    assert found(["absent", pattern], text, "regex") is is_there


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@settings(max_examples=200)
@given(st.text("ab.*\\[]()é \n", max_size=6), st.text("abABé \n", max_size=8))
def test_regex_rule_searches_normalized_text_ignoring_case(pattern, text):
    def nfd(value):
        return unicodedata.normalize("NFD", value)

    try:
        expected = re.search(nfd(pattern), nfd(text), re.IGNORECASE | re.UNICODE | re.MULTILINE) is not None
    except re.error:
        with pytest.raises(UserError, match="of question q7 is not a regular expression"):
            found([pattern], text, "regex")
    else:
        assert found([pattern], text, "regex") == expected


@pytest.mark.parametrize("pattern", ["(unclosed", "a{99999999999}", "*", "(?L)x", "(?a)(?u)x", "(" * 500 + ")" * 500])
def test_a_pattern_that_does_not_compile_is_named_with_its_question(pattern):
    with pytest.raises(UserError) as error:
        found(["fine", pattern], "text", "regex")
    assert f"answer {pattern[:60]!r} of question q7 is not a regular expression (" in str(error.value)
    assert answer_problem(pattern, rule="regex").startswith("not a regular expression (")
    assert answer_problem("fine", rule="regex") is None


@given(st.text(max_size=4), st.text(max_size=10))
def test_an_answer_with_a_problem_matches_nothing(answer, text):
    if answer_problem(answer, rule="string"):
        assert not found([answer], text + answer)
    else:
        assert found([answer], answer)


def test_an_unknown_rule_is_refused():
    with pytest.raises(UserError, match=r"answers: 'exact' is not possible"):
        found(["a"], "a", "exact")


@settings(max_examples=300)
@given(st.lists(LETTERS, max_size=3), st.one_of(LETTERS, st.text(max_size=30)))
def test_spans_are_the_stretches_that_match(answers, text):
    spans = answer_spans(answers, text, rule="string")
    assert bool(spans) == found(answers, text)
    assert all(found(answers, text[start:end]) for start, end in spans)
    assert [offset for span in spans for offset in span] == sorted({offset for span in spans for offset in span})
    rest = "".join("#" if any(start <= i < end for start, end in spans) else c for i, c in enumerate(text))
    assert not found(answers, rest) or "#" in "".join(answers)


@pytest.mark.parametrize(
    ("answers", "text", "rule", "expected"),
    [
        (["Beyoncé", "1981"], "BEYONCÉ: Beyonce\u0301, b. 1981.", "string", ["BEYONCÉ", "Beyonce\u0301", "1981"]),
        (["a b", "b c"], "x a b c x", "string", ["a b c"]),
        (["caf."], "un café noir", "regex", ["café"]),
        (["x*", "(", "N+"], "axx nn", "regex", ["xx", "nn"]),
    ],
)
def test_spans_are_of_the_text_as_it_is(answers, text, rule, expected):
    assert [text[start:end] for start, end in answer_spans(answers, text, rule=rule)] == expected
