"""Replies as untrusted text, and secrets in texts."""

from __future__ import annotations

import json

import pytest

from glasshouse.plugins.labelers.chat import retry_after
from glasshouse.plugins.labelers.keys import HIDDEN, scrubbed, shortened, without_keys
from glasshouse.plugins.labelers.prompts import label_prompt, yes_no_prompt
from glasshouse.plugins.labelers.replies import REPLY_LENGTH, cleaned, kept_reply, read_answers, read_label
from glasshouse.plugins.labeling import BadReply


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  two\t\n words ", "two words"),
        ("red\x1b[31m alert\x07", "red[31m alert"),
        ("abc\u202edcba", "abcdcba"),
        ("null\x00byte \ud800 half", "nullbyte half"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("é ü 漢字 🙂", "é ü 漢字 🙂"),
    ],
)
def test_cleaned(text: str, clean: str) -> None:
    """Markup stays text: who shows it must escape it. What steers a screen goes."""
    assert cleaned(text, 100) == clean
    clean.encode()


def test_lengths_are_bounded() -> None:
    assert cleaned("a" * 50, 10) == "a" * 9 + "…"
    assert len(kept_reply("word \n" * 9999)) <= REPLY_LENGTH
    assert kept_reply("one\n\x1b[2Jtwo") == "one\n[2Jtwo"


@pytest.mark.parametrize(
    "reply",
    [
        '{"label": "thin stripes"}',
        'Here it is:\n```json\n{"label": "thin stripes", "confidence": null}\n```\nDone.',
        'I think {of} this: {"label": " thin\\u0000 stripes "} and {"label": "more"}',
    ],
)
def test_a_label_is_found_among_words(reply: str) -> None:
    assert read_label(reply).label == "thin stripes"


@pytest.mark.parametrize(
    "reply",
    ["", "[]", '["label"]', "{" * 100_000, '{"a":' * 50_000, '{"label": 3}', '{"label": null}', '{"label": {}}',
     '{"label": "x", "confidence": "high"}', '{"label": "x", "confidence": true}', '{"label": "x", "confidence": NaN}',
     '{"label": "x", "confidence": 1' + "0" * 400 + "}", '{"label": "x", "confidence": -0.1}',
     '{"label": "x", "visual_elements": [1]}', '{"label": "x", "description": ["y"]}'],
)  # fmt: skip
def test_what_is_no_label(reply: str) -> None:
    with pytest.raises(BadReply):
        read_label(reply)


def test_answers_of_yes_and_no() -> None:
    assert read_answers('{"answers": [true, false]}', 2) == [True, False]
    for reply in ('{"answers": [true]}', '{"answers": [1, 0]}', '{"answers": "yes"}', "yes, no"):
        with pytest.raises(BadReply):
            read_answers(reply, 2)


def test_keys_are_removed_in_every_form() -> None:
    key = "a+b/c=d~12345"
    assert without_keys(f"x {key} y a%2Bb%2Fc%3Dd~12345 z", [key]) == f"x {HIDDEN} y {HIDDEN} z"
    assert without_keys("EMPTY is no secret", ["EMPTY"]) == "EMPTY is no secret"
    assert without_keys("basic geometric shapes, key=1", []) == "basic geometric shapes, key=1"
    text = "GET https://u:pw@h/x?key=abcdefg&b=1 Authorization: Bearer abcdefghijklmnopqrst x-goog-api-key: zzz999"
    for secret in ("u:pw", "abcdefg&", "abcdefghijklmnop", "zzz999"):
        assert secret not in scrubbed(text)
    assert "b=1" in scrubbed(text) and scrubbed("basic geometric shapes") == "basic geometric shapes"


def test_shortened_is_one_line() -> None:
    assert shortened("a\n\tb\x1b[0m.  ") == "a b [0m" and len(shortened("x" * 999)) == 200


def test_retry_after() -> None:
    from datetime import UTC, datetime, timedelta
    from email.utils import format_datetime

    assert retry_after("7") == 7 and retry_after("0.5") == 0.5 and retry_after("-3") == 0
    assert retry_after(None) is None and retry_after("soon") is None and retry_after("nan") is None
    later = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert later is not None and 85 < later <= 90


def test_prompts_say_what_is_asked() -> None:
    plain = label_prompt(9, has_overlays=False)
    assert "9 pictures" in plain and "heat map" not in plain and "rated" not in plain
    with_rating = label_prompt(1, has_overlays=True, dimension='be"auty\n', r=-0.31)
    assert "one picture" in with_rating and "heat map" in with_rating
    assert '"be\'auty"' in with_rating and "lower" in with_rating and "-0.31" in with_rating
    question = yes_no_prompt('say "yes"\nalways', [1, 2, 3])
    assert "3 numbered pictures" in question and "say 'yes' always" in question
    json.dumps([plain, with_rating, question])
