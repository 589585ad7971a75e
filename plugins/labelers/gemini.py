"""Labels by Google's Gemini models, through the client library google-genai and its structured output."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import LabelerLoader
from glasshouse.plugins.labeling import LabelerOptions, RetryLater
from glasshouse.schema.errors import ModelError, UsageError

if TYPE_CHECKING:
    from google.genai import types

    from glasshouse.plugins.hookspecs import Register
    from glasshouse.plugins.labelers.calls import Reply
    from glasshouse.plugins.labelers.chat import ChatLabeler, Part
    from glasshouse.plugins.labelers.services import Service

DEFAULT_MODEL = "gemini-3.8-flash"
KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")


@hookimpl
def register_labelers(register: Register[LabelerLoader]) -> None:
    """Register `gemini`."""
    register("gemini", LabelerLoader(load, f"a Gemini model of Google, by default {DEFAULT_MODEL}", resolve))


def resolve(options: LabelerOptions) -> LabelerOptions:
    """Fill in the model; look at the address.

    Raises:
        UsageError: the address has a secret in it.
    """
    from glasshouse.plugins.labelers.keys import checked_address  # late: plugins are imported by every command

    return replace(options, model=options.model or DEFAULT_MODEL, base_url=checked_address(options.base_url))


def load(options: LabelerOptions) -> ChatLabeler:
    """Connect to the service.

    Raises:
        ModelError: google-genai is not installed.
        UsageError: there is no key.
    """
    from glasshouse.plugins.labelers.chat import ChatLabeler, calls_of
    from glasshouse.plugins.labelers.keys import key_from
    from glasshouse.plugins.labelers.services import Service

    try:
        import google.genai as genai
    except ImportError as error:
        raise ModelError(
            "The labeler 'gemini' needs the package google-genai. Install it with `pip install glasshouse[gemini]`."
        ) from error
    options = resolve(options)
    key = key_from(KEY_VARIABLES)
    if key is None:
        raise UsageError(
            f"The labeler 'gemini' needs a key. Put it into the environment variable {' or '.join(KEY_VARIABLES)}."
        )
    calls = calls_of(options)
    calls.hide([key])
    client = genai.Client(
        api_key=key,
        vertexai=False,
        http_options=genai.types.HttpOptions(
            base_url=options.base_url,
            timeout=round(options.timeout_s * 1000),
            # A redirect would carry the key to another host.
            client_args={"follow_redirects": False},
        ),
    )
    service = Service("Gemini", " or ".join(KEY_VARIABLES), key)
    return ChatLabeler(GeminiChat(client, str(options.model), options.base_url, service), calls)


@dataclass(frozen=True)
class GeminiChat:
    """One Gemini model. `client` is a `google.genai.Client`, which threads may share."""

    client: Any
    model: str
    base_url: str | None
    service: Service

    def request(self, parts: Sequence[Part], schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return address, model, parts and schema; pictures as base64."""
        from glasshouse.plugins.labelers.chat import base64_text

        shown = [{"text": part} if isinstance(part, str) else {"jpeg": base64_text(part)} for part in parts]
        return {"api": "gemini", "base_url": self.base_url, "model": self.model, "parts": shown, "schema": schema}

    def send(self, request: Mapping[str, Any]) -> Reply:
        """Send it once; errors as `Chat` says."""
        from google.genai import errors, types

        parts = [
            types.Part.from_text(text=part["text"])
            if "text" in part
            else types.Part.from_bytes(data=base64.b64decode(part["jpeg"]), mime_type="image/jpeg")
            for part in request["parts"]
        ]
        config = types.GenerateContentConfig(
            response_mime_type="application/json", response_json_schema=request["schema"]
        )
        try:
            response = self.client.models.generate_content(
                model=self.model, contents=types.Content(role="user", parts=parts), config=config
            )
        except errors.APIError as error:
            raise self._explained(error) from None
        except Exception as error:
            if _is_transport(error):
                raise RetryLater(self.service.clean(f"{type(error).__name__} {error}")) from None
            raise
        return _reply_of(response)

    def _explained(self, error: Any) -> Exception:
        """Return what an error of the API means."""
        from glasshouse.plugins.labelers.chat import retry_after

        said = f"{error.status or ''} {error.message or ''}"
        headers = getattr(error.response, "headers", None) or {}
        wait_s = retry_after(headers.get("retry-after"))
        # A wrong key comes as 400 INVALID_ARGUMENT; only the details name the reason.
        is_about_key = "API_KEY" in str(error.details).upper().replace(" ", "_") and error.code == 400
        return self.service.error(int(error.code or 500), said, wait_s, is_about_key=is_about_key)


def _is_transport(error: Exception) -> bool:
    """Whether no whole reply has come: no connection, a timeout, a body that is not what the API sends."""
    import httpx2
    from google.genai.errors import UnknownApiResponseError

    return isinstance(error, (httpx2.TransportError, UnknownApiResponseError, json.JSONDecodeError, OSError))


def _reply_of(response: types.GenerateContentResponse) -> Reply:
    """Return the text of a response, or why there is none."""
    from glasshouse.plugins.labelers.calls import Reply

    feedback = response.prompt_feedback
    if feedback is not None and feedback.block_reason is not None:
        return Reply("", f"the service blocked the question: {_name(feedback.block_reason)}")
    if not response.candidates:
        return Reply("", "the reply has no candidates")
    candidate = response.candidates[0]
    parts = (candidate.content.parts if candidate.content else None) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    reason = _name(candidate.finish_reason) if candidate.finish_reason is not None else "STOP"
    if reason == "MAX_TOKENS":
        return Reply(text, "the reply was cut off (MAX_TOKENS)")
    return Reply(text, "" if reason == "STOP" else f"the service stopped the reply: {reason}")


def _name(value: Any) -> str:
    """Return the name of one of the API's enumerated values, unknown ones included."""
    return str(getattr(value, "value", value))[:60]
