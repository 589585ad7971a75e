"""The encoder `dinoised`: features, affinities and pooling against the same computed step by step; specs and errors."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from conftest import write_pictures

from glasshouse.plugins.analyzers.clip_space import decoder_vectors
from glasshouse.plugins.encoders import dinoised, local, open_clip
from glasshouse.plugins.encoders.affinities import pooled
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import GlasshouseError, ModelError, UsageError
from glasshouse.warehouse.warehouse import Warehouse

SIZE = 32
PATCH = 8
HOOK = dinoised.HOOK


@pytest.fixture(scope="module")
def spec_of(model_folder):
    """`spec_of(options, clip="open_clip", **kinds)`: the spec's name; {kind} in the options becomes its folder."""

    def build(options, clip="open_clip"):
        kinds = {kind: model_folder(kind) for kind in ("dinov2", "dinov2-registers", "vit", "timm-vit", "clip")}
        return f"{model_folder(clip)}#{options.format(**kinds)}"

    return build


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file in the layout of CLIP-DINOiser's last.pt, as its training script writes it."""
    file = tmp_path_factory.mktemp("dinoiser") / "last.pt"
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "obj_proj.weight": (10, 24, 3, 3), "obj_proj.bias": (10,),
        "bkg_decoder.weight": (1, 24, 1, 1), "bkg_decoder.bias": (1,),
    }  # fmt: skip
    state = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    torch.save({"epoch": 99, "model_state_dict": state}, file)
    return file, state


def batch_of(size):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def clip_tokens(model, batch_bchw):
    """What goes into each block of an open_clip tower, and what its ln_2 gives: lists of [b, 1 + patches, 24]."""
    visual = model.visual
    grid = batch_bchw.shape[2] // PATCH
    position_td = visual.positional_embedding
    patches = position_td[1:].T.reshape(1, 24, SIZE // PATCH, SIZE // PATCH)
    patches = torch.nn.functional.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    position_td = torch.cat([position_td[:1], patches.reshape(24, -1).T])
    tokens_btd = visual.conv1(batch_bchw).flatten(2).transpose(1, 2)
    cls = visual.class_embedding.expand(len(batch_bchw), 1, -1)
    tokens_btd = visual.ln_pre(torch.cat([cls, tokens_btd], 1) + position_td)
    inputs, inner = [], []
    for block in visual.transformer.resblocks:
        inputs.append(tokens_btd)
        normed = block.ln_1(tokens_btd)
        tokens_btd = tokens_btd + block.attn(normed, normed, normed)[0]
        inner.append(block.ln_2(tokens_btd))
        tokens_btd = tokens_btd + block.mlp(inner[-1])
    return inputs, inner


def masked_features(model, tokens_btd):
    """Value, output projection, residual, MLP, norm and projection of the last block, token by token."""
    block, visual = model.visual.transformer.resblocks[-1], model.visual
    rows = []
    for token_d in tokens_btd.reshape(-1, 24):
        normed = block.ln_1(token_d)
        value = block.attn.in_proj_weight[48:] @ normed + block.attn.in_proj_bias[48:]
        out = token_d + block.attn.out_proj.weight @ value + block.attn.out_proj.bias
        out = out + block.mlp(block.ln_2(out))
        rows.append(visual.proj.T @ visual.ln_post(out))
    return torch.stack(rows).reshape(*tokens_btd.shape[:2], -1)[:, 1:]


def naive_pool(features_te, guides_tc):
    rows = []
    for i in range(len(features_te)):
        total, weights = torch.zeros_like(features_te[0]), 0.0
        for j in range(len(features_te)):
            cosine = float(guides_tc[i] @ guides_tc[j] / (guides_tc[i].norm() * guides_tc[j].norm()))
            if cosine >= 0.2:
                total, weights = total + cosine * features_te[j], weights + cosine
        rows.append(total / (weights + 1e-6))
    return torch.stack(rows)


def naive(model, batch_bchw, guides_btc):
    features_bte = masked_features(model, clip_tokens(model, batch_bchw)[0][-1])
    return torch.stack([naive_pool(f, g) for f, g in zip(features_bte, guides_btc, strict=True)])


def library_model(model_folder, kind):
    if kind == "timm-vit":
        import timm

        return timm.create_model(f"local-dir:{model_folder(kind)}", pretrained=True).eval()
    import transformers

    name = {"dinov2": "Dinov2Model", "dinov2-registers": "Dinov2WithRegistersModel", "vit": "ViTModel"}[kind]
    return getattr(transformers, name).from_pretrained(model_folder(kind)).eval()


@pytest.fixture(scope="module")
def clip_model(model_folder):
    import open_clip as library

    return library.create_model(f"local-dir:{model_folder('open_clip')}").eval()


@torch.no_grad()
def dino_guides(model, kind, batch_bchw, by, block):
    """Keys or outputs of a block, from the libraries' own lists of hidden states."""
    mean_std = {"timm-vit": ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), "vit": ((0.5,) * 3, (0.5,) * 3)}
    of_clip = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # the processor's default
    pixels = batch_bchw * torch.tensor([0.2, 0.25, 0.3])[:, None, None] + torch.tensor([0.4, 0.5, 0.6])[:, None, None]
    mean, std = (torch.tensor(v)[:, None, None] for v in mean_std.get(kind, of_clip))
    images = (pixels - mean) / std
    if kind == "timm-vit":
        tokens = model.forward_intermediates(images, return_prefix_tokens=True, norm=False, output_fmt="NLC")[1]
        states = [torch.cat([prefix, patches], 1) for patches, prefix in tokens]
        layer = model.blocks[block]
        if by == "patches":
            return (model.norm(states[-1]) if block == -1 else states[block])[:, 1:]
        return layer.attn.qkv(layer.norm1(states[block - 1]))[:, 1:, 24:48]
    states = model(images, output_hidden_states=True).hidden_states
    n_prefix = 4 if kind == "dinov2-registers" else 1
    if by == "patches":
        return (model.layernorm(states[-1]) if block == -1 else states[block])[:, n_prefix:]
    layer = (model.layers if kind == "vit" else model.encoder.layer)[block]
    norm = layer.layernorm_before if kind == "vit" else layer.norm1
    attention = layer.attention
    return attention.k_proj(norm(states[block - 1]))[:, n_prefix:]


@pytest.mark.parametrize(
    ("kind", "by", "block"),
    [
        ("dinov2", "keys", -1), ("dinov2", "patches", -1), ("dinov2", "patches", -3), ("dinov2-registers", "keys", -2),
        ("vit", "keys", -1), ("vit", "patches", -1), ("timm-vit", "keys", -1), ("timm-vit", "patches", -2),
    ],
)  # fmt: skip
def test_features_are_pooled_by_the_affinities_of_a_dino(spec_of, model_folder, clip_model, kind, by, block):
    scheme = "timm" if kind == "timm-vit" else "hf"
    encoder = dinoised.load(spec_of(f"affinity={scheme}:{{{kind}}},by={by},block={block}"), "cpu")
    taken = encoder.forward(batch_of(SIZE), [HOOK]).activations[HOOK]
    guides = dino_guides(library_model(model_folder, kind), kind, batch_of(SIZE), by, block)
    with torch.no_grad():
        torch.testing.assert_close(taken, naive(clip_model, batch_of(SIZE), guides), atol=1e-4, rtol=1e-4)


def test_features_are_pooled_by_a_learned_convolution(spec_of, clip_model, checkpoint):
    file, state = checkpoint
    encoder = dinoised.load(spec_of(f"checkpoint={file}"), "cpu")
    taken = encoder.forward(batch_of(SIZE), [HOOK], embedding=False).activations[HOOK]
    with torch.no_grad():
        inner = clip_tokens(clip_model, batch_of(SIZE))[1][-3][:, 1:].transpose(1, 2).reshape(2, 24, 4, 4)
        # The edge is repeated, cell by cell.
        padded = torch.stack([inner[:, :, max(0, min(3, i - 1))] for i in range(6)], 2)
        padded = torch.stack([padded[..., max(0, min(3, j - 1))] for j in range(6)], 3)
        guides = torch.nn.functional.conv2d(padded, state["obj_proj.weight"], state["obj_proj.bias"])
        expected = naive(clip_model, batch_of(SIZE), guides.flatten(2).transpose(1, 2))
    torch.testing.assert_close(taken, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dinov2", "vit", "timm-vit"])
def test_another_size_interpolates_the_positions_of_both(spec_of, model_folder, clip_model, kind):
    scheme = "timm" if kind == "timm-vit" else "hf"
    encoder = dinoised.load(spec_of(f"affinity={scheme}:{{{kind}}},size=48"), "cpu")
    (point,) = encoder.hook_points()
    assert (point.name, point.grid, point.n_prefix, point.width) == (HOOK, (6, 6), 0, 20)
    assert encoder.framing["resize_to"] == (48, 48) and encoder.framing["crop_to"] == (48, 48)
    taken = encoder.forward(batch_of(48), [HOOK]).activations[HOOK]
    model = library_model(model_folder, kind)
    if kind == "timm-vit":
        model.set_input_size((48, 48))
    if kind == "vit":
        positions = model.embeddings.position_embeddings
        patches = positions[:, 1:].transpose(1, 2).reshape(1, 24, 4, 4)
        patches = torch.nn.functional.interpolate(patches, size=(6, 6), mode="bicubic").flatten(2).transpose(1, 2)
        model.embeddings.position_embeddings = torch.nn.Parameter(torch.cat([positions[:, :1], patches], 1))
        model.embeddings.image_size = model.embeddings.patch_embeddings.image_size = (48, 48)
    guides = dino_guides(model, kind, batch_of(48), "keys", -1)
    with torch.no_grad():
        torch.testing.assert_close(taken, naive(clip_model, batch_of(48), guides), atol=1e-4, rtol=1e-4)


def test_a_dino_of_other_patches_sees_the_picture_at_the_size_of_the_same_grid(spec_of, tmp_path, model_folder):
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 20, "patch_size": 5}
    Dinov2Model(Dinov2Config(**small)).save_pretrained(tmp_path)
    BitImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20}).save_pretrained(tmp_path)
    encoder = dinoised.load(spec_of(f"affinity=hf:{tmp_path}"), "cpu")
    seen = []
    embeddings = encoder.tower.model["guide"].embeddings
    embeddings.register_forward_pre_hook(lambda _m, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    assert encoder.forward(batch_of(SIZE), [HOOK]).activations[HOOK].shape == (2, 16, 20)
    assert [tuple(arguments[0].shape) for arguments, _ in seen[-1:]] == [(2, 3, 20, 20)]


def test_the_embedding_is_the_clips_and_so_are_the_texts(spec_of, model_folder):
    encoder = dinoised.load(spec_of("affinity=hf:{dinov2}"), "cpu")
    clip = open_clip.load_folder(model_folder("open_clip"), "cpu", "clip")
    torch.testing.assert_close(
        encoder.forward(batch_of(SIZE), [HOOK]).embedding_be, clip.forward(batch_of(SIZE), []).embedding_be
    )
    assert encoder.forward(batch_of(SIZE), [HOOK], embedding=False).embedding_be is None
    assert encoder.embedding_width == 20 and encoder.transform == clip.transform
    assert encoder.tower.embed_texts is not None


def test_an_edit_is_refused_since_it_would_change_nothing(spec_of):
    encoder = dinoised.load(spec_of("affinity=hf:{dinov2}"), "cpu")
    with pytest.raises(UsageError, match="depends on no 'dinoised' patch"):
        encoder.forward_edited(batch_of(SIZE), HOOK, lambda acts_btd: acts_btd)


def test_large_grids_are_pooled_piece_by_piece(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features, guides = torch.randn(5, 7, 4, generator=generator), torch.randn(5, 7, 3, generator=generator)
    at_once = pooled(features, guides)
    monkeypatch.setattr("glasshouse.plugins.encoders.affinities.MAX_AFFINITIES", 2 * 49)
    assert torch.equal(pooled(features, guides), at_once)
    expected = torch.stack([naive_pool(f, g) for f, g in zip(features, guides, strict=True)])
    torch.testing.assert_close(at_once, expected)


def test_the_fingerprint_changes_with_every_weight_and_setting(spec_of, checkpoint):
    dino = "affinity=hf:{dinov2}"
    options = [
        dino, f"{dino},by=patches", f"{dino},block=-2", f"{dino},size=48", "affinity=hf:{vit}",
        "affinity=hf:{dinov2-registers}", f"checkpoint={checkpoint[0]}",
    ]  # fmt: skip
    prints = [dinoised.load(spec_of(option), "cpu").fingerprint for option in options]
    assert len(set(prints)) == len(prints)
    assert dinoised.load(spec_of(dino), "cpu").fingerprint == prints[0]


def test_the_spec_of_an_encoder_loads_it_again(spec_of, monkeypatch, checkpoint):
    plugins = Plugins(external=False)
    for option in ("size=48,affinity=hf:{dinov2},block=-2,by=patches", f"checkpoint={checkpoint[0]},size=40"):
        encoder = plugins.load_encoder(f"dinoised:{spec_of(option)}")
        assert encoder.spec.startswith("dinoised:")
        assert plugins.load_encoder(encoder.spec).fingerprint == encoder.fingerprint
    monkeypatch.chdir(checkpoint[0].parent)
    assert f"checkpoint={checkpoint[0]}" in dinoised.load(spec_of("checkpoint=last.pt"), "cpu").spec


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ("size=32", UsageError, "needs affinity=SPEC .* or checkpoint=FILE"),
        ("affinity=hf:{dinov2},checkpoint=x.pt", UsageError, "needs affinity=SPEC"),
        ("affinity=hf:{dinov2},sizes=3", UsageError, "no option 'sizes'. Did you mean 'size'"),
        ("affinity=hf:{dinov2},size", UsageError, "'size' does not read size=VALUE"),
        ("affinity=hf:{dinov2},size=0", UsageError, "size is the side of the images"),
        ("affinity=hf:{dinov2},size=33", ModelError, "Use size=32 or size=40"),
        ("affinity=hf:{dinov2},size=3", ModelError, "Use size=8"),
        ("affinity=hf:{dinov2},by=queries", UsageError, "by=keys or by=patches"),
        ("affinity=hf:{dinov2},block=2", UsageError, "counted from the end"),
        ("affinity=hf:{dinov2},block=-9", ModelError, "the blocks -1 to -4"),
        ("affinity=hf:{clip}", ModelError, "gives no affinities"),
        ("affinity=dino:x", UsageError, "no scheme 'dino'"),
        ("checkpoint=nowhere.pt", ModelError, "There is no checkpoint .*nowhere.pt"),
        ("checkpoint=nowhere.pt,by=keys", UsageError, "leave them out"),
    ],
)
def test_mistakes_in_a_spec_are_one_line(spec_of, options, kind, message):
    with pytest.raises(kind, match=message) as caught:
        dinoised.load(spec_of(options), "cpu")
    assert "\n" not in str(caught.value)


def test_checkpoints_and_clips_that_do_not_fit(spec_of, tmp_path, checkpoint):
    def refused(content):
        file = tmp_path / "odd.pt"
        torch.save(content, file)
        with pytest.raises(ModelError) as caught:
            dinoised.load(spec_of(f"checkpoint={file}"), "cpu")
        return str(caught.value)

    assert "has no obj_proj.weight" in refused({"state_dict": {"other": torch.zeros(2)}})
    wide = {"obj_proj.weight": torch.zeros(8, 32, 3, 3), "obj_proj.bias": torch.zeros(8)}
    assert "this CLIP is 24 wide" in refused(wide)
    assert "has no obj_proj.weight" in refused([1, 2])
    bare = tmp_path / "bare.pt"
    torch.save(checkpoint[1], bare)
    same = dinoised.load(spec_of(f"checkpoint={bare}"), "cpu")
    assert same.fingerprint == dinoised.load(spec_of(f"checkpoint={checkpoint[0]}"), "cpu").fingerprint
    for clip in ("open_clip-resnet", "open_clip-timm", "clip"):
        with pytest.raises(GlasshouseError, match="no CLIP"):
            dinoised.load(spec_of("affinity=hf:{dinov2}", clip=clip), "cpu")


def test_the_starters(model_folder):
    plugins = Plugins(external=False)
    encoder = plugins.load_encoder("starter:dinoised")
    (point,) = encoder.hook_points()
    assert (encoder.spec, point.name, point.width, point.n_prefix, point.grid) == (
        "starter:dinoised", HOOK, encoder.embedding_width, 0, (8, 8),
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"no starter encoder 'dino'.*clip, dinoised, dinov2"):
        plugins.load_encoder("starter:dino")
    assert local.load(str(model_folder("open_clip")), "cpu").fingerprint != encoder.fingerprint


def write_cfm(folder, checkpoint):
    """The files that the preset `cfm` reads, for a CLIP of 24 wide blocks and an embedding of 20."""
    (folder / "sae").mkdir(parents=True)
    shutil.copy(checkpoint, folder / "last.pt")
    generator = torch.Generator().manual_seed(8)
    state = {
        "W_enc": torch.randn(20, 12, generator=generator), "b_enc": torch.zeros(12),
        "W_dec": torch.randn(12, 20, generator=generator), "b_dec": torch.randn(20, generator=generator),
        "k": torch.tensor(3), "threshold": torch.tensor(0.1), "group_sizes": torch.tensor([4, 8]),
    }  # fmt: skip
    torch.save(state, folder / "sae" / "ae.pt")
    trainer = {"dict_class": "MatryoshkaBatchTopKSAE", "activation_dim": 20, "dict_size": 12, "k": 3}
    (folder / "sae" / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    return state


def test_the_preset_cfm_reads_its_files_from_one_folder(tmp_path, monkeypatch, checkpoint, model_folder):
    monkeypatch.chdir(tmp_path)
    plugins = Plugins(external=False)
    preset = plugins.presets.get("cfm")
    with pytest.raises(ModelError, match=r"There is no checkpoint .*cfm/last.pt. The preset cfm reads") as caught:
        plugins.load_encoder(preset.encoder)
    with pytest.raises(ModelError, match=r"There is no checkpoint .*/no.pt. checkpoint= is the path") as other:
        plugins.load_encoder("dinoised:open_clip:ViT-B-16/openai#checkpoint=no.pt")
    assert "preset" not in str(other.value).partition("no.pt. ")[2]
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"There is no folder ./cfm/sae.*config.json and ae.pt"):
        plugins.load_sae(preset.spaces[0].sae)
    state = write_cfm(tmp_path / "cfm", checkpoint[0])
    # The same spec with a small CLIP: the published one is not at hand in tests.
    spec = preset.encoder.replace("open_clip:ViT-B-16/laion2b_s34b_b88k", str(model_folder("open_clip")))
    warehouse = Warehouse.create("w.glasshouse", plugins)
    write_pictures(tmp_path / "pictures", 3, size=40)
    warehouse.add([tmp_path / "pictures"])
    warehouse.extract(spec, [(space.name, space.hook, space.tokens, space.sae) for space in preset.spaces])
    view = AnalysisView(warehouse, "cfm")
    assert view.grid == (56, 56) and view.n_features == 12
    torch.testing.assert_close(torch.from_numpy(decoder_vectors(view)), state["W_dec"], atol=1e-5, rtol=1e-5)
    warehouse.close()


def test_a_clip_that_cannot_be_had_says_how_a_folder_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"In a dinoised spec: dinoised:open_clip:FOLDER#affinity=hf:FOLDER"):
        dinoised.load(f"open_clip:{tmp_path}#affinity=hf:{tmp_path}", "cpu")
