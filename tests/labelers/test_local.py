"""The labeler `local` with a real model of transformers: tiny, untrained, saved to a folder. It talks nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glasshouse.schema.errors import ModelError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %} {% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a LLaVA of two layers, its image processor and a tokenizer of characters."""
    from glasshouse.plugins.encoders.torchvision_shim import ensure_torchvision_operators

    ensure_torchvision_operators()
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    letters = ["<pad>", "<s>", "</s>", "<unk>", *map(chr, range(32, 127)), "\n"]
    characters = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    image = tokenizer.convert_tokens_to_ids("<image>")
    small = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, pad_token_id=0, **small)
    vision = CLIPVisionConfig(image_size=32, patch_size=16, projection_dim=32, **small)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image, vision_feature_layer=-1)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        pictures, tokenizer, patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("llava")
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_nonsense_is_kept_as_a_failure(labelled: Any, model_folder: Path) -> None:
    given = {"labeler": "local", "model": str(model_folder), "features": (3, 5), "n_images": 2, "concurrency": 2}
    labelled.analyze("labels", "p", **given)
    rows = labelled.sql("FROM labels ORDER BY feature_id").to_dicts()
    assert [row["label"] for row in rows] == [None, None]
    for row in rows:
        assert "no JSON object" in row["failure"] or "empty" in row["failure"]
        assert row["reply"] is not None and row["model"] == str(model_folder)
    replies = [row["reply"] for row in rows]
    assert any(replies), "it said something"
    notes = labelled.runs()[-1].notes
    assert (notes["n_calls"], notes["n_failures"]) == (2, 2)
    labelled.analyze("labels", "p", **{**given, "concurrency": 1})
    again = labelled.sql("FROM labels ORDER BY feature_id").to_dicts()
    assert [row["reply"] for row in again] == replies and labelled.runs()[-1].notes["n_calls"] == 0


def test_the_reply_depends_on_the_pictures(labelled: Any, model_folder: Path) -> None:
    """The untrained model's words differ with what it is shown, so the pictures do reach it."""
    from glasshouse.plugins.labelers.cache import ReplyCache
    from glasshouse.plugins.labelers.calls import Calls
    from glasshouse.plugins.labelers.chat import jpeg_bytes
    from glasshouse.plugins.labelers.local import load
    from glasshouse.plugins.labeling import LabelerOptions
    from glasshouse.plugins.view import AnalysisView

    calls = Calls(ReplyCache(labelled.root / "c"))
    labeler = load(LabelerOptions(AnalysisView(labelled, "s"), calls, model=str(model_folder)))
    pictures = [jpeg_bytes(labelled.picture(image)) for image in (0, 1)]
    replies = [labeler.chat.send(labeler.chat.request(["what is it?", data], {})).text for data in pictures]
    assert replies[0] != replies[1]
    same = labeler.chat.send(labeler.chat.request(["what is it?", pictures[0]], {})).text
    assert same == replies[0]
    answers = labeler.ask_yes_no("striped", [labelled.picture(0), labelled.picture(1)])
    assert list(answers) == [None, None], "nonsense is neither yes nor no"


def test_what_cannot_be_asked(labelled: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a model"):
        labelled.analyze("labels", "s", labeler="local")
    with pytest.raises(UsageError, match=r"There is no folder /nope\."):
        labelled.analyze("labels", "s", labeler="local", model="/nope")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"The model .*empty cannot be loaded") as caught:
        labelled.analyze("labels", "s", labeler="local", model=str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)
