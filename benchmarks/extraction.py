"""Extraction from JPEGs against its limit and against the usual script.

The limit is the bare forward pass to the same hook and relu(x @ W_enc + b_enc) on tensors that lie in memory, with
the same number of threads. The usual script goes image by image and writes one JSON of its active features for each.
Encoder and SAE have random weights; the SAE's bias is set so that about `L0` features are active per token.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from benchmarks.pictures import write_pictures
from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import interleaved, ratio, say, seconds
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.saes.common import BLOCK_BYTES, CommonSae
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.warehouse.contracts import Encoder, TokenPolicy
from glasshouse.warehouse.extraction.run import DEFAULT_BATCH_SIZE
from glasshouse.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    import torch

HOOK = "blocks.8.resid_post"
N_FEATURES = 49_152
L0 = 48
N_PER_ROUND = {"cls": 128, "patches": 64}
N_BY_SCRIPT = 8
N_ROUNDS = {"cls": 5, "patches": 3}


@dataclass
class Bench:
    """What the ways of extracting share: models, pictures, and the images prepared as tensors in batches."""

    encoder: Encoder
    sae: CommonSae
    pictures: list[Path]
    batches_bchw: list[torch.Tensor]


def run(setting: Setting) -> Iterator[Row]:
    """Yield the CLS token of ViT-B-32, then all of its patches."""
    if setting.quick:
        say("  left out with --quick: ViT-B-32 takes minutes")
        return
    plugins = Plugins(external=False)
    encoder = plugins.load_encoder("open_clip:ViT-B-32/random:0")
    for tokens in ("cls", "patches"):
        n_images = DEFAULT_BATCH_SIZE + N_ROUNDS[tokens] * N_PER_ROUND[tokens]
        folder = setting.scratch / f"jpegs-{tokens}"
        say(f"  writing {n_images} JPEGs of 640 × 480")
        write_pictures(folder, n_images, (640, 480), ".jpg")
        bench = _prepare(encoder, sorted(folder.iterdir()), tokens)
        warehouse = Warehouse.create(setting.scratch / f"{tokens}.glasshouse", plugins)
        warehouse.add([folder])
        yield from _compare(bench, warehouse, tokens, setting)


def _compare(bench: Bench, warehouse: Warehouse, tokens: TokenPolicy, setting: Setting) -> Iterator[Row]:
    n_per_round = N_PER_ROUND[tokens]
    outputs = setting.scratch / f"json-{tokens}"
    outputs.mkdir()

    def ours() -> None:
        extract_some(warehouse, bench, tokens, n_per_round)

    def bare() -> None:
        bare_pass(bench, tokens, n_per_round)

    def script() -> None:
        by_script(bench, tokens, bench.pictures[:N_BY_SCRIPT], outputs)

    # The first batch warms up and carries the SAE's self-test, once per space however many images there are.
    first = seconds(lambda: extract_some(warehouse, bench, tokens, DEFAULT_BATCH_SIZE))
    bare()
    times = interleaved({"bare": bare, "extract": ours, "script": script}, N_ROUNDS[tokens])
    last = seconds(lambda: extract_some(warehouse, bench, tokens, None))
    yield from _rows(times, tokens, n_per_round)
    yield Row(
        "extraction",
        f"{tokens}: once per space: first batch with the self-test; finalising",
        f"{first:.1f} s; {last:.1f} s",
    )
    yield _json_size(outputs, warehouse, tokens)


def _rows(times: dict[str, list[float]], tokens: str, n_per_round: int) -> Iterator[Row]:
    share = ratio(times, "bare", "extract")
    rate, limit = n_per_round / statistics.median(times["extract"]), n_per_round / statistics.median(times["bare"])
    yield Row(
        "extraction",
        f"{tokens}: from JPEGs to shards, ViT-B-32 to block 8, {N_FEATURES:,} features",
        f"{rate:.1f} images/s",
        f"{limit:.1f} images/s bare forward pass + SAE product",
        share,
        ">= 0.85",
        share >= 0.85,
    )
    yield Row(
        "extraction",
        f"{tokens}: the same in processor time",
        f"{1000 * statistics.median(times['extract, processor']) / n_per_round:.0f} ms per image",
        f"{1000 * statistics.median(times['bare, processor']) / n_per_round:.0f} ms",
        ratio(times, "bare, processor", "extract, processor"),
    )
    # The best rounds: the script's many short passes suffer most where other processes are in the way.
    rate, by_script = n_per_round / min(times["extract"]), N_BY_SCRIPT / min(times["script"])
    yield Row(
        "extraction",
        f"{tokens}: what a user gains, best rounds",
        f"{rate:.1f} images/s",
        f"{by_script:.1f} images/s one by one, a JSON each",
        rate / by_script,
    )


def extract_some(warehouse: Warehouse, bench: Bench, tokens: TokenPolicy, n_images: int | None) -> None:
    """Extract the next n images into shards and stop there; with None, what is left, and finalise."""
    seen = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal seen
        seen = done

    stop: Callable[[], bool] = lambda: n_images is not None and seen >= n_images  # noqa: E731
    warehouse.extract(bench.encoder, [("bench", HOOK, tokens, bench.sae)], stop=stop, progress=progress)


def bare_pass(bench: Bench, tokens: TokenPolicy, n_images: int) -> None:
    """The limit: the forward pass to the hook and the SAE's dense codes, block by block into the same memory."""
    import torch

    form = bench.sae.form
    n_block = BLOCK_BYTES // (4 * N_FEATURES)
    codes_bf = torch.empty(n_block, N_FEATURES)
    with torch.inference_mode():
        for batch_bchw in bench.batches_bchw[: n_images // DEFAULT_BATCH_SIZE]:
            for rows_nd in torch.split(hooked(bench.encoder, batch_bchw, tokens), n_block):
                block_nf = codes_bf[: len(rows_nd)]
                torch.addmm(form.b_enc_f, rows_nd, form.w_enc_df, out=block_nf)
                torch.relu_(block_nf)


def by_script(bench: Bench, tokens: TokenPolicy, files: Sequence[Path], outputs: Path) -> None:
    """The usual script: open, forward, product and JSON {feature: value} for one image after the other."""
    import torch

    form = bench.sae.form
    with torch.inference_mode():
        for file in files:
            with Image.open(file) as image:
                tensor_chw = bench.encoder.preprocess(image.convert("RGB"))
            rows_nd = hooked(bench.encoder, tensor_chw[None], tokens)
            codes_f = torch.relu(rows_nd @ form.w_enc_df + form.b_enc_f).amax(0)
            active = {str(int(feature)): float(codes_f[feature]) for feature in codes_f.nonzero()[:, 0]}
            (outputs / f"{file.stem}.json").write_text(json.dumps(active), encoding="utf-8")


def hooked(encoder: Encoder, batch_bchw: torch.Tensor, tokens: TokenPolicy) -> torch.Tensor:
    """Activation vectors [n, D] at the hook."""
    acts_btd = encoder.forward(batch_bchw, [HOOK], embedding=False).activations[HOOK]
    return acts_btd[:, 0] if tokens == "cls" else acts_btd[:, 1:].flatten(0, 1)


def _prepare(encoder: Encoder, pictures: list[Path], tokens: TokenPolicy) -> Bench:
    """Draw an SAE whose bias leaves about `L0` features per token on these pictures, and decode the batches."""
    import torch

    batches_bchw = [
        torch.stack(
            [
                encoder.preprocess(Image.open(file).convert("RGB"))
                for file in pictures[start : start + DEFAULT_BATCH_SIZE]
            ]
        )
        for start in range(0, N_PER_ROUND[tokens], DEFAULT_BATCH_SIZE)
    ]
    rows_nd = hooked(encoder, batches_bchw[0], tokens)[:512]
    generator = torch.Generator().manual_seed(0)
    w_enc_df = torch.randn(rows_nd.shape[1], N_FEATURES, generator=generator) / rows_nd.shape[1] ** 0.5
    highest_nk = ((rows_nd - rows_nd.mean(0)) @ w_enc_df).topk(L0 + 1, dim=1).values
    form = CommonForm(
        w_enc_df=w_enc_df,
        b_enc_f=-(rows_nd.mean(0) @ w_enc_df) - highest_nk[:, -1].median(),
        w_dec_fd=w_enc_df.T.contiguous(),
        b_dec_d=torch.zeros(rows_nd.shape[1]),
        apply_b_dec_to_input=False,
    )
    return Bench(encoder, CommonSae("random", form), pictures, batches_bchw)


def _json_size(outputs: Path, warehouse: Warehouse, tokens: str) -> Row:
    """Bytes per activation: the script's files, as blocks of the file system count them, against the table."""
    files = list(outputs.iterdir())
    n_active = sum(len(json.loads(file.read_text(encoding="utf-8"))) for file in files)
    on_disk = sum(file.stat().st_blocks * 512 for file in files) / n_active
    l0 = warehouse.sql("SELECT count(*) / count(DISTINCT image_id) AS l0 FROM activations")["l0"][0]
    return Row(
        "extraction",
        f"{tokens}: {l0:.0f} features per image; the script's files on disk",
        f"{on_disk:.0f} bytes per activation",
    )
