"""The head of a card: YAML whatever it holds."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as some

from headstart._front_matter import front_matter, licence_facts

printable = some.text(some.characters(categories=("L", "M", "N", "P", "S"), include_characters=" "))
scalars = some.one_of(printable, some.integers(), some.booleans(), some.floats(allow_nan=False, allow_infinity=False))
# the hub's facts never hold an empty list or mapping
facts = some.dictionaries(
    some.from_regex(r"[a-z][a-z_-]{0,9}", fullmatch=True).filter(lambda k: k not in ("y", "n", "yes", "no", "on")),
    some.recursive(
        scalars,
        lambda inner: some.one_of(
            some.lists(inner, min_size=1, max_size=3),
            some.dictionaries(some.sampled_from(["name", "type", "value"]), inner, min_size=1),
        ),
        max_leaves=6,
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(facts)
def test_yaml_reads_what_was_written(data: dict[str, object]) -> None:
    text = front_matter(data)
    assert text.startswith("---\n")
    assert text.endswith("\n---\n")
    assert text.splitlines().count("---") == 2
    expected = {key: value for key, value in data.items() if value != ""}
    assert (yaml.safe_load(text[4:-4]) or {}) == expected


def test_nothing_can_end_the_block() -> None:
    text = front_matter({"name": "a\n---\nlicense: mit", "tags": ["x: y", "- z", "#", "yes", "1e3"]})
    assert yaml.safe_load(text[4:-4]) == {"name": "a --- license: mit", "tags": ["x: y", "- z", "#", "yes", "1e3"]}


def test_what_is_not_known_is_left_out() -> None:
    assert front_matter({"license": "mit", "base_model": None, "tags": [], "name": ""}) == "---\nlicense: mit\n---\n"


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY-NC 4.0", {"license": "cc-by-nc-4.0"}),
        (None, {"license": "unknown"}),
        ("", {"license": "unknown"}),
        ("see its card", {"license": "unknown"}),
        ("My Own: Terms\n---", {"license": "other", "license_name": "my-own-terms"}),
    ],
)
def test_licences_in_the_hubs_words(licence: str | None, expected: dict[str, str]) -> None:
    assert licence_facts(licence) == expected
