"""Labels by any service that speaks OpenAI's chat completions: OpenAI's own, vLLM, Ollama, LM Studio, llama.cpp, …"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import LabelerLoader
from glasshouse.plugins.labeling import LabelerOptions, RetryLater
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    import httpx2

    from glasshouse.plugins.hookspecs import Register
    from glasshouse.plugins.labelers.calls import Reply
    from glasshouse.plugins.labelers.chat import ChatLabeler, Part
    from glasshouse.plugins.labelers.services import Service

DEFAULT_BASE_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
ADDRESS_VARIABLE = "OPENAI_BASE_URL"
_BLOCKED = ("content_filter", "content_policy_violation", "moderation_blocked")
"""Codes with which a request is rejected for what it shows; other requests can work."""


@hookimpl
def register_labelers(register: Register[LabelerLoader]) -> None:
    """Register `openai`."""
    register("openai", LabelerLoader(load, "any service with OpenAI's chat completions, e.g. a local vLLM", resolve))


def resolve(options: LabelerOptions) -> LabelerOptions:
    """Fill in the address: the one given, else $OPENAI_BASE_URL, else OpenAI's own.

    Raises:
        UsageError: no model is named, or the address has a secret in it.
    """
    from glasshouse.plugins.labelers.keys import checked_address  # late: plugins are imported by every command

    if not options.model:
        raise UsageError(
            f"The labeler 'openai' needs a model that reads pictures. Name it with {options.model_option}."
        )
    given, named = options.base_url, os.environ.get(ADDRESS_VARIABLE, "").strip()
    address = checked_address(given) if given else checked_address(named or DEFAULT_BASE_URL, f"${ADDRESS_VARIABLE}")
    return replace(options, base_url=address)


def load(options: LabelerOptions) -> ChatLabeler:
    """Prepare a connection; nothing is sent yet.

    Raises:
        UsageError: no model, or no key for OpenAI's own service. Other services may do without one.
    """
    import httpx2

    from glasshouse.plugins.labelers.chat import ChatLabeler, calls_of
    from glasshouse.plugins.labelers.keys import key_from
    from glasshouse.plugins.labelers.services import Service

    options = resolve(options)
    key = key_from([KEY_VARIABLE])
    if key is None and options.base_url == DEFAULT_BASE_URL:
        raise UsageError(
            f"The labeler 'openai' needs a key. Put it into the environment variable {KEY_VARIABLE}; a local service "
            "is named with --base-url and may need none."
        )
    calls = calls_of(options)
    calls.hide([key])
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    # Redirects are not followed: one would carry the key to another host.
    client = httpx2.Client(headers=headers, timeout=options.timeout_s, follow_redirects=False)
    service = Service(f"The service at {options.base_url}", KEY_VARIABLE, key)
    return ChatLabeler(OpenAIChat(client, str(options.model), str(options.base_url), service), calls)


@dataclass(frozen=True)
class OpenAIChat:
    """One model behind chat completions. Threads may share the client."""

    client: httpx2.Client
    model: str
    base_url: str
    service: Service

    def request(self, parts: Sequence[Part], schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return the address and the body; pictures as data URIs."""
        from glasshouse.plugins.labelers.chat import base64_text

        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64_text(part)}"}}
            for part in parts
        ]
        form = {"name": "answer", "strict": True, "schema": schema}
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "response_format": {"type": "json_schema", "json_schema": form},
        }
        return {"api": "openai", "base_url": self.base_url, "body": body}

    def send(self, request: Mapping[str, Any]) -> Reply:
        """Send it once; errors as `Chat` says."""
        import httpx2

        from glasshouse.plugins.labelers.chat import retry_after

        try:
            response = self.client.post(f"{self.base_url}/chat/completions", json=request["body"])
        except httpx2.TransportError as error:
            raise RetryLater(self.service.clean(f"{type(error).__name__} {error}")) from None
        if response.status_code == 200:
            return self._reply_of(response)
        blocked = _block_of(response)
        if blocked is not None:
            return blocked
        wait_s = retry_after(response.headers.get("retry-after"))
        raise self.service.error(response.status_code, _said_in(response), wait_s)

    def _reply_of(self, response: httpx2.Response) -> Reply:
        """Return the text of a completion, or why there is none.

        Raises:
            RetryLater: it is no completion; a proxy's page, or half a body.
        """
        from glasshouse.plugins.labelers.calls import Reply

        try:
            choice = response.json()["choices"][0]
            message, reason = choice["message"], choice.get("finish_reason")
            text, refusal = message.get("content"), message.get("refusal")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise RetryLater(f"no chat completion came: {self.service.clean(response.text)}") from None
        if refusal:
            return Reply(str(refusal), "the model refused")
        if reason == "length":
            return Reply(_text_of(text), "the reply was cut off (length)")
        if reason == "content_filter":
            return Reply(_text_of(text), "the service blocked the reply: content_filter")
        return Reply(_text_of(text))


def _text_of(content: Any) -> str:
    """Return a message's content as text: a string, or a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _error_in(response: httpx2.Response) -> dict[str, Any]:
    try:
        found = response.json()
        error = found.get("error", found)
        return error if isinstance(error, dict) else {"message": str(error)}
    except (ValueError, AttributeError):
        return {"message": response.text}


def _said_in(response: httpx2.Response) -> str:
    return str(_error_in(response).get("message", ""))


def _block_of(response: httpx2.Response) -> Reply | None:
    """Return the reply that a request got which was rejected for what it shows; None when it was not."""
    from glasshouse.plugins.labelers.calls import Reply

    error = _error_in(response) if response.status_code == 400 else {}
    if str(error.get("code")) not in _BLOCKED:
        return None
    return Reply(str(error.get("message", "")), f"the service blocked the question: {error['code']}")
