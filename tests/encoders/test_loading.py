"""Loading: what is in a folder is what runs; fingerprints; texts; specs; what is missing is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch

from glasshouse.plugins import hub
from glasshouse.plugins.encoders import local, open_clip, timm, transformers
from glasshouse.plugins.manager import Plugins
from glasshouse.schema.errors import GlasshouseError, ModelError, UsageError

KINDS = [
    "clip", "clip-vision", "siglip", "dinov2", "dinov2-registers", "vit",
    "open_clip", "open_clip-resnet", "open_clip-timm", "timm-resnet", "timm-vit",
]  # fmt: skip
LOADERS = {"open_clip": open_clip, "timm": timm}


def loader_of(kind):
    return LOADERS.get(kind.split("-")[0], transformers)


def weights_file(folder):
    return next(folder.glob("*.safetensors"))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_on_disk_are_those_that_run(model_folder, kind):
    """Also after hook points were looked for: a pass in training mode would change batch statistics."""
    encoder = local.load(str(model_folder(kind)), "cpu")
    encoder.hook_points()
    on_disk = safetensors.torch.load_file(weights_file(model_folder(kind)))
    state = encoder._tower.model.state_dict()
    # Compared without names: transformers renames them while it loads.
    known = {(tensor.shape, tensor.dtype, tensor.numpy().tobytes()) for tensor in on_disk.values()}
    assert len(state) > 20
    for name, tensor in state.items():
        assert (tensor.shape, tensor.dtype, tensor.numpy().tobytes()) in known, name
    assert not any(module.training for module in encoder._tower.model.modules())
    assert not any(parameter.requires_grad for parameter in encoder._tower.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_found_by_its_scheme_and_by_what_lies_in_it(model_folder, kind):
    folder = model_folder(kind)
    by_content = local.load(str(folder), "cpu")
    by_scheme = loader_of(kind).load(str(folder), "cpu")
    assert by_content.fingerprint == by_scheme.fingerprint
    assert by_content.spec == str(folder.resolve())
    scheme, _, path = by_scheme.spec.partition(":")
    assert (scheme, path) == ({"open_clip": "open_clip", "timm": "timm"}.get(kind.split("-")[0], "hf"), by_content.spec)


def test_specs_find_their_loader(model_folder):
    plugins = Plugins(external=False)
    for kind, scheme in (("dinov2", "hf"), ("open_clip", "open_clip"), ("timm-resnet", "timm")):
        by_scheme = plugins.load_encoder(f"{scheme}:{model_folder(kind)}")
        assert plugins.load_encoder(str(model_folder(kind))).fingerprint == by_scheme.fingerprint


@pytest.mark.parametrize("kind", ["clip", "dinov2", "open_clip", "timm-resnet"])
def test_the_fingerprint_changes_with_one_weight_and_with_the_preprocessing(model_folder, tmp_path, kind):
    base = local.load(str(model_folder(kind)), "cpu").fingerprint
    seen = {base}
    copy = shutil.copytree(model_folder(kind), tmp_path / "copy")
    assert local.load(str(copy), "cpu").fingerprint == base

    weights = safetensors.torch.load_file(weights_file(copy))
    name = next(name for name, tensor in weights.items() if tensor.ndim > 1)
    weights[name].view(-1)[5] += 1e-6
    safetensors.torch.save_file(weights, weights_file(copy), {"format": "pt"})
    seen.add(local.load(str(copy), "cpu").fingerprint)

    for file, change in {
        "preprocessor_config.json": lambda config: config["image_mean"].__setitem__(1, 0.123),
        "open_clip_config.json": lambda config: config["preprocess_cfg"]["mean"].__setitem__(1, 0.123),
        "config.json": lambda config: config.get("pretrained_cfg", {}).update(mean=[0.5, 0.123, 0.3]),
    }.items():
        if (copy / file).exists():
            config = json.loads((copy / file).read_text())
            change(config)
            (copy / file).write_text(json.dumps(config))
    seen.add(local.load(str(copy), "cpu").fingerprint)
    assert len(seen) == 3
    assert all(len(fingerprint) == 64 for fingerprint in seen)


def test_the_fingerprint_changes_with_what_the_weights_do_not_say(model_folder, tmp_path):
    """Another activation function or number of heads fits the same tensors."""
    for kind, file, change in (
        ("dinov2", "config.json", {"num_attention_heads": 4}),
        ("dinov2", "config.json", {"hidden_act": "relu"}),
        ("open_clip", "open_clip_config.json", {"model_cfg": {"quick_gelu": True}}),
    ):
        copy = shutil.copytree(model_folder(kind), tmp_path / "copy", dirs_exist_ok=True)
        before = local.load(str(copy), "cpu").fingerprint
        config = json.loads((copy / file).read_text())
        for key, value in change.items():
            config[key] = config[key] | value if isinstance(value, dict) else value
        (copy / file).write_text(json.dumps(config))
        assert local.load(str(copy), "cpu").fingerprint != before
        shutil.rmtree(copy)


def test_the_fingerprint_is_the_same_in_another_process(model_folder):
    folders = [str(model_folder(kind)) for kind in ("timm-resnet", "timm-vit")]
    program = (
        "import sys\nfrom glasshouse.plugins.encoders import local\n"
        "for folder in sys.argv[1:]: print(local.load(folder, 'cpu').fingerprint)"
    )
    other = subprocess.run([sys.executable, "-c", program, *folders], capture_output=True, text=True, check=True)
    assert other.stdout.split() == [local.load(folder, "cpu").fingerprint for folder in folders]


def test_texts_of_transformers(model_folder):
    import transformers as library

    texts = ["a red cat", "dog", "the dog on the left of the cat on the left of the blue dot of the green dot"]
    for kind, name, padding in (("clip", "CLIPModel", "longest"), ("siglip", "SiglipModel", "max_length")):
        model = getattr(library, name).from_pretrained(model_folder(kind))
        tokenizer = library.AutoTokenizer.from_pretrained(model_folder(kind))
        tokens = tokenizer(texts, padding=padding, truncation=True, max_length=12, return_tensors="pt")
        with torch.no_grad():
            expected = model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        embeds = local.load(str(model_folder(kind)), "cpu").embed_text(texts)
        torch.testing.assert_close(embeds, expected)
        assert embeds.dtype == torch.float32


def test_texts_of_open_clip(model_folder):
    import open_clip as library

    texts = ["a red cat", "dog"]
    model = library.create_model(f"local-dir:{model_folder('open_clip')}").eval()
    tokenizer = library.get_tokenizer(f"local-dir:{model_folder('open_clip')}")
    with torch.no_grad():
        expected = model.encode_text(tokenizer(texts))
    encoder = local.load(str(model_folder("open_clip")), "cpu")
    torch.testing.assert_close(encoder.embed_text(texts), expected)
    assert encoder.embed_text(texts).shape[1] == encoder.embedding_width


def test_a_vocabulary_of_its_own_beside_the_weights(model_folder, tmp_path):
    import gzip

    import open_clip as library

    folder = shutil.copytree(model_folder("open_clip"), tmp_path / "clip")
    with gzip.open(folder / "merges.txt.gz", "wt", encoding="utf-8") as file:
        file.write("#version\nd o\ndo g</w>\nc a\n")
    tokens = library.SimpleTokenizer(bpe_path=str(folder / "merges.txt.gz"), context_length=12)(["dog", "cat"])
    assert 510 < tokens.max() < 530, "two for each byte, three merges and two special tokens"
    model = library.create_model(f"local-dir:{folder}").eval()
    with torch.no_grad():
        torch.testing.assert_close(local.load(str(folder), "cpu").embed_text(["dog", "cat"]), model.encode_text(tokens))


@pytest.mark.parametrize("kind", ["clip-vision", "dinov2", "vit", "timm-vit"])
def test_models_without_a_text_tower(model_folder, kind):
    assert local.load(str(model_folder(kind)), "cpu").embed_text(["a"]) is None


def test_a_model_without_its_tokenizer_says_so_when_a_text_comes(model_folder, tmp_path, offline):
    folder = shutil.copytree(model_folder("clip"), tmp_path / "clip")
    for file in folder.glob("token*"):
        file.unlink()
    encoder = local.load(str(folder), "cpu")
    with pytest.raises(
        ModelError, match=r"clip has no tokenizer: none of tokenizer\.json.* Place the tokenizer's files"
    ):
        encoder.embed_text(["a"])


def test_random_weights_come_from_the_seed():
    for module, name in ((timm, "resnet10t"), (open_clip, "ViT-S-32-alt")):
        before = torch.random.get_rng_state()
        first, again, other = (module.load(f"{name}/random:{seed}", "cpu") for seed in (1, 1, 2))
        assert torch.equal(torch.random.get_rng_state(), before), "the generator is left as it was"
        assert first.fingerprint == again.fingerprint != other.fingerprint
        assert first.spec.endswith(f"{name}/random:1")
        for wrong in ("random", "random:", "random:x", "random:-1"):
            with pytest.raises(ModelError, match=r"random weights need a seed.*random:0"):
                module.load(f"{name}/{wrong}", "cpu")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("open_clip:ViT-B-33/laion2b", ["no architecture 'ViT-B-33'", "ViT-B-32"]),
        ("open_clip:ViT-B-32/datacomp", ["no weights 'datacomp' of ViT-B-32", "datacomp_xl_s13b_b90k"]),
        ("open_clip:ViT-B-32", ["no weights '' of ViT-B-32", "open_clip:ViT-B-32/WEIGHTS"]),
        ("open_clip:./nothing", ["There is no folder ./nothing", "open_clip_config.json"]),
        ("timm:resnt50", ["no model 'resnt50'", "resnet50"]),
        ("timm:resnet50.a9_in1k", ["no weights 'a9_in1k'", "resnet50.a1_in1k"]),
        ("timm:/nothing", ["There is no folder /nothing", "config.json and model.safetensors"]),
        ("hf:/nothing", ["There is no folder '/nothing'", "preprocessor_config.json"]),
        ("hf:", ["There is no folder ''"]),
        ("/nothing", ["/nothing", "folder"]),
        ("local:/nothing", ["There is no folder /nothing", "open_clip_config.json", "architectures"]),
        ("starter:sae-cls", ["no starter encoder 'sae-cls'", "Known: ", "clip, dinoised, dinov2"]),
        ("clip:ViT-B-32", ["no encoder scheme 'clip'", "Known: dinoised, hf, local, open_clip, python, starter, timm"]),
    ],
)
def test_names_that_are_none(spec, words, offline):
    with pytest.raises(GlasshouseError) as caught:
        Plugins(external=False).load_encoder(spec)
    assert isinstance(caught.value, ModelError | UsageError)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "files"),
    [
        ("open_clip:ViT-B-32/datacomp_xl_s13b_b90k", ["open_clip_config.json", "--encoder open_clip:FOLDER"]),
        ("open_clip:hf-hub:laion/some-clip", ["open_clip_config.json", "--encoder open_clip:FOLDER"]),
        ("hf:facebook/dinov2-small", ["config.json, model.safetensors", "--encoder hf:FOLDER"]),
        ("timm:resnet50.a1_in1k", ["config.json and model.safetensors", "--encoder timm:FOLDER"]),
        ("timm:hf-hub:timm/resnet18.a1_in1k", ["config.json and model.safetensors", "--encoder timm:FOLDER"]),
    ],
)
def test_without_a_hub_the_error_says_what_to_place_where(spec, files, offline):
    started = time.monotonic()
    with pytest.raises(ModelError) as caught:
        Plugins(external=False).load_encoder(spec)
    assert time.monotonic() - started < 8
    said = str(caught.value)
    assert said.startswith(f"{spec} cannot be loaded: the hub cannot be reached and it is not in the cache.")
    for words in files:
        assert words in said
    assert "\n" not in said


def test_a_hub_that_answers_nothing_is_given_up_soon(monkeypatch, tmp_path):
    """A server that takes connections and stays silent, and one that refuses them."""
    import socket

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PATIENCE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert not hub.hub_is_reachable()
        assert time.monotonic() - started < 3
        with pytest.raises(ModelError, match="the hub cannot be reached"):
            transformers.load("facebook/dinov2-small", "cpu")
    started = time.monotonic()
    assert not hub.hub_is_reachable()
    assert time.monotonic() - started < 3
    assert not constants.HF_HUB_OFFLINE, "as it was"


def test_a_hub_that_answers_is_used(monkeypatch, tmp_path):
    """A real server that knows no model: its answer, and not its absence, is reported."""
    import http.server
    import threading

    from huggingface_hub import constants

    class Server(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200 if self.path == "/" else 404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        assert hub.hub_is_reachable()
        with pytest.raises(ModelError) as caught:
            transformers.load("nobody/nothing", "cpu")
        assert "cannot be reached" not in str(caught.value)
        assert "hf:nobody/nothing cannot be loaded" in str(caught.value)
        assert "\n" not in str(caught.value)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_folders_that_are_broken(model_folder, tmp_path, offline):
    def broken(kind, change):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        folder = shutil.copytree(model_folder(kind), tmp_path / "copy")
        change(folder)
        with pytest.raises(ModelError) as caught:
            local.load(str(folder), "cpu").hook_points()
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)
        return str(caught.value)

    def half_the_weights(folder):
        weights = safetensors.torch.load_file(weights_file(folder))
        kept = {name: tensor for name, tensor in weights.items() if ".2." not in name}
        safetensors.torch.save_file(kept, weights_file(folder), {"format": "pt"})

    def cut_short(folder):
        content = weights_file(folder).read_bytes()
        weights_file(folder).write_bytes(content[: len(content) // 2])

    def change_json(name, **changes):
        return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))

    for kind in ("clip", "dinov2", "open_clip", "timm-vit"):
        assert "cannot be loaded" in broken(kind, cut_short)
        assert broken(kind, lambda folder: weights_file(folder).unlink())
    assert "tensors are missing" in broken("dinov2", half_the_weights)
    assert "cannot be loaded by open_clip" in broken("open_clip", half_the_weights)
    assert "cannot be loaded by timm" in broken("timm-vit", half_the_weights)
    assert "is no JSON" in broken("clip", lambda folder: (folder / "config.json").write_text("{"))
    assert "holds no encoder that is known" in broken("clip", lambda folder: (folder / "config.json").write_text("{}"))
    assert "preprocessor_config" in broken("vit", lambda folder: (folder / "preprocessor_config.json").unlink())
    assert "model of type 'bert'" in broken("vit", change_json("config.json", model_type="bert"))
    assert "cannot run an image of 40×32" in broken(
        "vit", change_json("preprocessor_config.json", size={"height": 40, "width": 32})
    )
    assert "of many sizes" in broken("clip", change_json("preprocessor_config.json", do_center_crop=False))
    assert "is not supported" in broken("vit", change_json("preprocessor_config.json", size={"longest_edge": 32}))


def test_a_checkpoint_that_needs_unpickling_is_refused(model_folder, tmp_path, offline):
    import os

    proof = tmp_path / "proof"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(proof),)

    for kind, name in (
        ("open_clip", "open_clip_pytorch_model.bin"),
        ("timm-vit", "pytorch_model.bin"),
        ("vit", "pytorch_model.bin"),
    ):
        folder = shutil.copytree(model_folder(kind), tmp_path / kind)
        weights_file(folder).unlink()
        torch.save({"weight": Attack()}, folder / name)
        with pytest.raises(ModelError) as caught:
            local.load(str(folder), "cpu")
        assert "\n" not in str(caught.value)
        assert not proof.exists()


def test_registering_imports_no_heavy_library():
    program = (
        "import sys\nfrom glasshouse.plugins.encoders import local\n"
        "from glasshouse.plugins.saes import local, neurons\nfrom glasshouse.plugins.starter import plugin\n"
        "print([name for name in ('torch', 'transformers', 'open_clip', 'timm', 'torchvision', 'numpy', 'PIL', "
        "'pydantic', 'huggingface_hub') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_every_built_in_scheme_is_registered():
    plugins = Plugins(external=False)
    assert {"open_clip", "hf", "timm", "local", "starter"} <= {name for name, _, _ in plugins.encoders}
    for _name, loader, _plugin in plugins.encoders:
        assert loader.summary
        assert "\n" not in loader.summary
    starter = plugins.presets.get("starter")
    assert starter.encoder == "starter:clip"
    assert [(space.name, space.hook, space.tokens, space.sae) for space in starter.spaces] == [
        ("cls", "blocks.3.resid_post", "cls", "starter:sae-cls"),
        ("patches", "blocks.2.resid_post", "patches", "starter:sae-patches"),
    ]


def test_cuda_that_is_not_there(model_folder):
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="Use --device cpu"):
            local.load(str(model_folder("vit")), "cuda")
    with pytest.raises(ModelError, match="not on 'gpu'"):
        local.load(str(model_folder("vit")), "gpu")
