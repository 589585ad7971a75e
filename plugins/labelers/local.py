"""Labels by a model on this machine: any image-text-to-text model of transformers, from the hub or a folder."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import LabelerLoader
from glasshouse.plugins.labeling import LabelerOptions
from glasshouse.schema.errors import ModelError, UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.hookspecs import Register
    from glasshouse.plugins.labelers.calls import Reply
    from glasshouse.plugins.labelers.chat import ChatLabeler, Part

MOST_TOKENS = 400
"""Tokens of a reply. A label with all its fields takes about 150."""


@hookimpl
def register_labelers(register: Register[LabelerLoader]) -> None:
    """Register `local`."""
    register(
        "local", LabelerLoader(load, "an image-text model of transformers on this machine", resolve, is_remote=False)
    )


def resolve(options: LabelerOptions) -> LabelerOptions:
    """See that a model is named.

    Raises:
        UsageError: none is, or a folder that is not there.
    """
    if not options.model:
        raise UsageError(
            f"The labeler 'local' needs a model. Name one of the hub, or a folder, with {options.model_option}."
        )
    if is_path(options.model) and not Path(options.model).is_dir():
        raise UsageError(f"There is no folder {options.model}. Name a folder with a model, or a model of the hub.")
    return options


def is_path(name: str) -> bool:
    """Whether a name can be no model of the hub, whose names are NAME or OWNER/NAME."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def load(options: LabelerOptions) -> ChatLabeler:
    """Load model and processor onto the device.

    Raises:
        ModelError: they cannot be loaded, or the model has no chat template.
    """
    from glasshouse.plugins.devices import torch_device  # late: torch and transformers take seconds
    from glasshouse.plugins.encoders.torchvision_shim import ensure_torchvision_operators
    from glasshouse.plugins.fingerprint import fingerprint
    from glasshouse.plugins.hub import hub_errors
    from glasshouse.plugins.labelers.chat import ChatLabeler, calls_of

    name = str(resolve(options).model)
    device = torch_device(options.device)
    ensure_torchvision_operators()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    with hub_errors(f"The model {name}", "Download it where there is a network and name its folder with --model."):
        processor = AutoProcessor.from_pretrained(name)
        model = AutoModelForImageTextToText.from_pretrained(name).to(device).eval()
    if not getattr(processor, "chat_template", None):
        raise ModelError(
            f"The model {name} has no chat template, so it cannot be asked. Choose an instruction-tuned one."
        )
    identity = fingerprint(model.state_dict(), {"chat_template": processor.chat_template, "tokens": MOST_TOKENS})
    return ChatLabeler(LocalChat(processor, model, name, identity), calls_of(options))


@dataclass(frozen=True)
class LocalChat:
    """One loaded model. Threads take turns; the reply is the likeliest one, so it is the same each time."""

    processor: Any
    weights: Any
    model: str
    identity: str
    lock: threading.Lock = field(default_factory=threading.Lock)

    def request(self, parts: Sequence[Part], schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fingerprint of the weights and the parts. The form of the answer is asked for in the text."""
        from glasshouse.plugins.labelers.chat import base64_text

        shown = [{"text": part} if isinstance(part, str) else {"jpeg": base64_text(part)} for part in parts]
        return {"api": "local", "weights": self.identity, "parts": shown}

    def send(self, request: Mapping[str, Any]) -> Reply:
        """Generate one reply."""
        import torch
        from PIL import Image

        from glasshouse.plugins.labelers.calls import Reply

        content = [
            {"type": "text", "text": part["text"]}
            if "text" in part
            else {"type": "image", "image": Image.open(io.BytesIO(base64.b64decode(part["jpeg"])))}
            for part in request["parts"]
        ]
        with self.lock, torch.inference_mode():
            inputs = self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            ).to(self.weights.device)
            tokens = self.weights.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
            new = tokens[:, inputs["input_ids"].shape[1] :]
            text = self.processor.batch_decode(new, skip_special_tokens=True)[0]
        return Reply(str(text))
