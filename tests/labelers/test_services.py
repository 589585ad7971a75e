"""Labels over real HTTP: what comes of every kind of answer, good and bad, for both kinds of service."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glasshouse.schema.errors import GlasshouseError, ModelError, UsageError

from .conftest import GOOD, KEY, Answer, Seen, Service, gemini_body, openai_body


@dataclass(frozen=True)
class Api:
    """One of the two ways to speak to a service."""

    name: str
    key_variable: str
    suffix: str
    body: Callable[..., str]
    cut_off: str
    blocked: str

    def parameters(self, service: Service, **given: Any) -> dict[str, Any]:
        return {
            "labeler": self.name,
            "model": "some-model",
            "base_url": service.address + self.suffix,
            "tries": 2,
            "features": (3, 5),
            **given,
        }

    def pictures(self, seen: Seen) -> list[Image.Image]:
        if self.name == "gemini":
            parts = seen.body["contents"][0]["parts"]
            data = [part["inlineData"]["data"] for part in parts if "inlineData" in part]
        else:
            parts = seen.body["messages"][0]["content"]
            data = [p["image_url"]["url"].partition("base64,")[2] for p in parts if p["type"] == "image_url"]
        return [Image.open(io.BytesIO(base64.b64decode(text.replace("-", "+").replace("_", "/")))) for text in data]

    def text(self, seen: Seen) -> str:
        if self.name == "gemini":
            return str(seen.body["contents"][0]["parts"][0]["text"])
        return str(seen.body["messages"][0]["content"][0]["text"])


GEMINI = Api("gemini", "GEMINI_API_KEY", "", gemini_body, "MAX_TOKENS", "SAFETY")
OPENAI = Api("openai", "OPENAI_API_KEY", "/v1", openai_body, "length", "content_filter")


@pytest.fixture(params=[GEMINI, OPENAI], ids=lambda api: api.name)
def api(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Api:
    found: Api = request.param
    monkeypatch.setenv(found.key_variable, KEY)
    return found


def run(warehouse: Any, parameters: dict[str, Any], space: str = "s") -> list[dict[str, Any]]:
    warehouse.analyze("labels", space, **parameters)
    rows: list[dict[str, Any]] = warehouse.sql(f"FROM labels WHERE space = '{space}' ORDER BY feature_id").to_dicts()
    return rows


def everything_kept(root: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file())


def test_a_valid_reply_becomes_a_label(api: Api, service: Service, labelled: Any) -> None:
    service.script = lambda number, seen: Answer(body=api.body(json.dumps(GOOD)))
    rows = run(labelled, api.parameters(service, n_images=4))
    assert [row["feature_id"] for row in rows] == [3, 5]
    row = rows[0]
    assert row["label"] == GOOD["label"] and row["description"] == GOOD["description"] and row["confidence"] == 0.8
    assert list(row["visual_elements"]) == GOOD["visual_elements"] and row["rating_effect"] is None
    assert (row["labeler"], row["model"], row["failure"], row["reply"]) == (api.name, "some-model", None, None)
    assert len(service.seen) == 2
    shown = api.pictures(service.seen[0])
    assert len(shown) == 4 and {picture.format for picture in shown} == {"JPEG"} and shown[0].size == (224, 224)
    assert "4 pictures" in api.text(service.seen[0]) and "heat map" not in api.text(service.seen[0])


def test_what_the_service_is_sent(api: Api, service: Service, labelled: Any) -> None:
    service.script = lambda number, seen: Answer(body=api.body(json.dumps(GOOD)))
    run(labelled, api.parameters(service, features=(3,)))
    (seen,) = service.seen
    headers = {name.lower(): value for name, value in seen.headers.items()}
    if api.name == "gemini":
        assert seen.path.endswith("/models/some-model:generateContent") and headers["x-goog-api-key"] == KEY
        config = seen.body["generationConfig"]
        assert config["responseMimeType"] == "application/json"
        schema = config["responseJsonSchema"]
    else:
        assert seen.path == "/v1/chat/completions" and headers["authorization"] == f"Bearer {KEY}"
        form = seen.body["response_format"]
        assert form["type"] == "json_schema" and form["json_schema"]["strict"] is True
        schema = form["json_schema"]["schema"]
    assert set(schema["required"]) == set(GOOD)
    assert KEY not in json.dumps(seen.body)


def test_patch_spaces_show_the_heat_map_beside_each_picture(api: Api, service: Service, labelled: Any) -> None:
    service.script = lambda number, seen: Answer(body=api.body(json.dumps(GOOD)))
    run(labelled, api.parameters(service, n_images=3, features=(3,)), space="p")
    shown = api.pictures(service.seen[0])
    assert len(shown) == 6 and "heat map" in api.text(service.seen[0])
    top = labelled.top_images("p", 3, 3)["image_id"].to_list()
    first = labelled.picture(top[0]).resize((224, 224), Image.Resampling.BICUBIC)
    far, near = (_difference(picture, first) for picture in (shown[1], shown[0]))
    assert near < 12 < far, "the picture itself, then the picture under its heat map"


def _difference(one: Image.Image, other: Image.Image) -> float:
    import numpy as np

    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other.convert("RGB"), dtype=float)).mean())


BAD_TEXTS = {
    "no JSON": ("I would say: stripes.", "no JSON object", "I would say: stripes."),
    "half of it": (json.dumps(GOOD)[:40], "no JSON object", json.dumps(GOOD)[:40]),
    "another schema": ('{"name": "stripes"}', "no label", '{"name": "stripes"}'),
    "other types": (json.dumps({**GOOD, "visual_elements": "noise"}), "no list of texts", "noise"),
    "impossible confidence": (json.dumps({**GOOD, "confidence": 80}), "from 0 to 1", "80"),
    "an essay": (json.dumps({**GOOD, "label": "a " * 40}), "longer than a label", "a a a"),
    "an empty text": ("", "empty", ""),
    "an empty label": (json.dumps({**GOOD, "label": " \u200b\n"}), "no label", ""),
}


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_a_reply_that_is_no_label_is_kept_as_a_failure(api: Api, service: Service, labelled: Any, kind: str) -> None:
    text, reason, kept = BAD_TEXTS[kind]

    def script(number: int, seen: Seen) -> Answer:
        return Answer(body=api.body(text if number == 0 else json.dumps(GOOD)))

    service.script = script
    rows = run(labelled, api.parameters(service, concurrency=1))
    assert rows[0]["label"] is None and reason in rows[0]["failure"] and kept in rows[0]["reply"]
    assert rows[1]["label"] == GOOD["label"] and rows[1]["failure"] is None
    assert len(service.seen) == 2, "a bad reply is not asked for again"


@pytest.mark.parametrize("kind", ["cut off", "blocked", "refused", "no candidates"])
def test_replies_that_a_service_withholds_are_failures(api: Api, service: Service, labelled: Any, kind: str) -> None:
    half = json.dumps(GOOD)[:30]
    if kind == "cut off":
        body, reason = api.body(half, api.cut_off), "cut off"
    elif kind == "blocked":
        body, reason = api.body(None, api.blocked), api.blocked
    elif api.name == "gemini":
        asked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}} if kind == "refused" else {}
        body, reason = json.dumps(asked), "PROHIBITED_CONTENT" if asked else "no candidates"
    else:
        body, reason = api.body(None, refusal="I cannot help with that."), "refused"
    service.script = lambda number, seen: Answer(body=body)
    row = run(labelled, api.parameters(service, features=(3,)))[0]
    assert row["label"] is None and reason in row["failure"], row["failure"]
    assert row["reply"] == (half if kind == "cut off" else row["reply"])


def test_a_request_that_is_blocked_for_its_pictures_ends_nothing(service: Service, labelled: Any) -> None:
    blocked = json.dumps({"error": {"message": "not these", "code": "content_policy_violation"}})

    def script(number: int, seen: Seen) -> Answer:
        return Answer(400, blocked) if number == 0 else Answer(body=openai_body(json.dumps(GOOD)))

    service.script = script
    rows = run(labelled, OPENAI.parameters(service, concurrency=1))
    assert "content_policy_violation" in rows[0]["failure"] and rows[0]["reply"] == "not these"
    assert rows[1]["label"] == GOOD["label"]


def test_a_busy_service_is_waited_for(api: Api, service: Service, labelled: Any) -> None:
    def script(number: int, seen: Seen) -> Answer:
        busy = Answer(429, '{"error": {"message": "slow down", "code": 429}}', (("Retry-After", "1"),))
        return busy if number == 0 else Answer(body=api.body(json.dumps(GOOD)))

    service.script = script
    rows = run(labelled, api.parameters(service, features=(3,)))
    assert rows[0]["label"] == GOOD["label"] and len(service.seen) == 2
    assert service.seen[1].at - service.seen[0].at >= 0.99


@pytest.mark.parametrize("kind", ["500", "hangs", "hangs up", "half a body"])
def test_a_broken_service_is_given_up(api: Api, service: Service, labelled: Any, kind: str) -> None:
    answers = {
        "500": Answer(500, "<html>oh no</html>"),
        "hangs": Answer(delay_s=3.0, body=api.body(json.dumps(GOOD))),
        "hangs up": Answer(hang_up=True),
        "half a body": Answer(body=api.body(json.dumps(GOOD))[:50]),
    }
    service.script = lambda number, seen: answers[kind]
    with pytest.raises(ModelError, match=r"no reply after 2 tries: .*Run the same command again"):
        run(labelled, api.parameters(service, features=(3,), timeout=0.5))
    assert len(service.seen) == 2
    assert labelled.runs() == []


def test_one_question_without_a_reply_leaves_the_others(api: Api, service: Service, labelled: Any) -> None:
    """Its feature gets no row: nobody said anything about it."""

    def script(number: int, seen: Seen) -> Answer:
        return Answer(503) if number < 2 else Answer(body=api.body(json.dumps(GOOD)))

    service.script = script
    rows = run(labelled, api.parameters(service, concurrency=1))
    assert [row["feature_id"] for row in rows] == [5]
    notes = labelled.runs()[-1].notes
    assert notes["n_unlabelled"] == 1 and "HTTP 503" in notes["unlabelled_because"][0]


def test_nobody_there(api: Api, service: Service, labelled: Any) -> None:
    parameters = api.parameters(service, features=(3,))
    service.close()
    with pytest.raises(ModelError, match="no reply after 2 tries"):
        run(labelled, parameters)


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_ends_the_run_and_keeps_what_came(api: Api, service: Service, labelled: Any, status: int) -> None:
    def script(number: int, seen: Seen) -> Answer:
        refused = Answer(status, json.dumps({"error": {"message": f"the key {KEY} is not valid", "code": status}}))
        return refused if number == 1 else Answer(body=api.body(json.dumps(GOOD)))

    service.script = script
    with pytest.raises(ModelError) as caught:
        run(labelled, api.parameters(service, features=(3, 5, 7, 8), concurrency=1))
    said = str(caught.value)
    assert "refuses the key" in said and api.key_variable in said and KEY not in said and "\n" not in said
    assert len(service.seen) == 2, "no further request"
    run(labelled, api.parameters(service, features=(3,)))
    assert len(service.seen) == 2, "the reply that came before is in the cache"


def test_geminis_way_to_refuse_a_key(service: Service, labelled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    error = {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}
    service.script = lambda number, seen: Answer(400, json.dumps({"error": error}))
    with pytest.raises(ModelError, match="refuses the key"):
        run(labelled, GEMINI.parameters(service))
    assert service.seen[0].headers["x-goog-api-key"] == KEY


def test_an_unknown_model_ends_the_run(api: Api, service: Service, labelled: Any) -> None:
    service.script = lambda number, seen: Answer(404, '{"error": {"message": "no model some-model", "code": 404}}')
    with pytest.raises(ModelError, match=r"HTTP 404: .*no model some-model.*--model"):
        run(labelled, api.parameters(service, concurrency=1))
    assert len(service.seen) == 1


LEAKS = {
    "in a label": (200, {**GOOD, "description": f"the key is {KEY}"}),
    "in a bad reply": (200, f"no label but {KEY}"),
    "in an error": (418, f"you sent {KEY}; see https://x.invalid/?key={KEY}&a=1"),
    "at the edge of what is shown": (418, "x" * 183 + " " + KEY + " " + "x" * 50),
    "in a busy message": (503, f"try later, {KEY}"),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_the_key_never_leaves_the_headers(
    api: Api, service: Service, labelled: Any, kind: str, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    status, said = LEAKS[kind]
    text = said if isinstance(said, str) else json.dumps(said)
    body = api.body(text) if status == 200 else json.dumps({"error": {"message": text, "code": status}})
    service.script = lambda number, seen: Answer(status, body)
    caplog.set_level(logging.DEBUG)
    shown = ""
    try:
        shown = str(run(labelled, api.parameters(service, features=(3,))))
    except GlasshouseError as error:
        cause: BaseException | None = error
        while cause is not None:
            shown += str(cause)
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    printed = "".join(capsys.readouterr())
    kept = everything_kept(labelled.root)
    for part in (KEY, KEY[:-1], KEY[:12]):
        assert part not in shown and part not in caplog.text and part not in printed
        assert part.encode() not in kept
    assert service.seen, "it was really asked"


def test_no_key(api: Api, service: Service, labelled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemini needs one everywhere, OpenAI's interface only at OpenAI's own address."""
    monkeypatch.delenv(api.key_variable)
    with pytest.raises(UsageError, match=rf"needs a key.*{api.key_variable}"):
        run(labelled, api.parameters(service, base_url=None))
    monkeypatch.setenv(api.key_variable, "two words")
    with pytest.raises(UsageError, match="holds no key") as caught:
        run(labelled, api.parameters(service))
    assert "two words" not in str(caught.value)
    assert service.seen == []


def test_a_local_service_needs_no_key(service: Service, labelled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", service.address + "/v1/")
    rows = run(labelled, OPENAI.parameters(service, base_url=None))
    assert rows[0]["label"] == GOOD["label"]
    assert "authorization" not in {name.lower() for name in service.seen[0].headers}
    assert labelled.runs()[-1].parameters["base_url"] == service.address + "/v1"


@pytest.mark.parametrize("address", ["http://user:{}@h/v1", "http://h/v1?key={}", "http://h/v1#{}", "{}", "ftp://{}"])
def test_an_address_with_a_secret_is_refused_unseen(api: Api, labelled: Any, address: str, service: Service) -> None:
    with pytest.raises(UsageError) as caught:
        run(labelled, api.parameters(service, base_url=address.format(KEY)))
    assert KEY not in str(caught.value)


def test_gemini_without_its_package(service: Service, labelled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setitem(sys.modules, "google.genai", None)
    with pytest.raises(ModelError, match=r"pip install glasshouse\[gemini\]"):
        run(labelled, GEMINI.parameters(service))


def test_a_redirect_does_not_carry_the_key_away(api: Api, service: Service, labelled: Any) -> None:
    elsewhere = Service()
    try:
        service.script = lambda number, seen: Answer(307, "", (("Location", elsewhere.address + seen.path),))
        with pytest.raises(GlasshouseError):
            run(labelled, api.parameters(service, features=(3,)))
        assert elsewhere.seen == []
    finally:
        elsewhere.close()
