"""What a run costs is counted from its network, and the paper's runs are what the paper says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from corruptkit_train import cost
from corruptkit_train.cli import main
from corruptkit_train.conditions import ClassConditions
from corruptkit_train.config import load_config, parse_config
from corruptkit_train.cost import MFU, estimate_alone
from corruptkit_train.meter import count_flops
from corruptkit_train.models import build_model
from corruptkit_train.models.unet import TrainedText, UNet
from corruptkit_train.run import train_run
from tests.train.conftest import save_encoder
from tests.train.small import small_run, write_pictures
from tests.train.test_trained_text import text_run

# Steps, batch, weights that are trained, GFLOP of an image's training step: three times two operations a product of DiT's 118.6 GMAC.
PAPER = {
    "paper-ldm4-in1k": (178_000, 512, 400_920_579 + 1001 * 512, 625),
    "paper-dit-xl2-in1k": (400_000, 256, 674_834_720, 712),
    # Cross-attention at 768 adds 5.4 million to the U-Net; BERT-base has 108.9 million without its pooler.
    "paper-ldm4-cc3m": (396_000, 512, 406_327_299 + 108_891_648, 675),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_runs_have_the_published_sizes(name: str) -> None:
    config, (steps, batch, weights, gflop) = load_config(name), PAPER[name]
    assert (config.images, config.optimiser.batch, config.optimiser.rate) == (steps * batch, batch, 1e-4)
    found = estimate_alone(config)
    assert found.weights == weights
    assert found.flops / 1e9 == pytest.approx(gflop, rel=0.005)
    assert found.hours["H100"] == pytest.approx(config.images * found.flops / (989e12 * MFU * 3600))
    assert found.hours["A100"] == pytest.approx(found.hours["H100"] * 989 / 312)


def test_the_papers_runs_say_what_the_paper_measured() -> None:
    tables = {name: {row.method: row for row in load_config(name).expected} for name in PAPER}
    assert {name: (rows["clean"].scale, rows["clean"].fid) for name, rows in tables.items()} == {
        "paper-ldm4-in1k": (2.0, 9.44),
        "paper-dit-xl2-in1k": (1.75, 6.76),
        "paper-ldm4-cc3m": (3.0, 19.85),
    }
    for name, rows in tables.items():
        assert load_config(name).sampler.scale == rows["clean"].scale
        assert all(row.samples == 50_000 and "2405.20494" in row.source for row in rows.values())
        assert list(rows) == ["clean", "input", "cep uniform", "cep gaussian"]


@pytest.mark.parametrize("name", PAPER)
def test_every_unknown_of_the_papers_runs_is_marked(name: str) -> None:
    text = (Path(__file__).parents[2] / "train" / "runs" / f"{name}.toml").read_text("utf-8")
    for field in ("seed", "precision", "crop", "flip", "dropout", "decay", "clip", "warmup"):
        assert f"\n{field} = " in text
        line = text.partition(f"\n{field} = ")[2].partition("\n")[0]
        assert "# unknown: " in line, (field, line)


def test_what_is_expected_is_no_part_of_the_identity() -> None:
    config = small_run()
    told = small_run(expected=[{"source": "a table", "scale": 1.5, "fid": 3.0}])
    assert told.digest() == config.digest()
    assert told.expected[0].method == "clean"


def test_a_sketch_counts_what_the_network_does(tmp_path: Path) -> None:
    """Without numbers as with them; a trained encoder counts."""
    encoder = save_encoder(tmp_path / "encoder")
    config = text_run(encoder)
    found = estimate_alone(config)
    from corruptkit_train.conditions import null_conditions
    from corruptkit_train.trained import make_denoiser

    conditions = null_conditions(config.condition, None)
    network = make_denoiser(config, conditions)
    assert found.flops == count_flops(network, conditions.null, torch.device("cpu"))
    assert found.weights == sum(weight.numel() for weight in network.parameters())
    assert not found.assumed
    frozen = config.model_dump(mode="json")
    frozen["condition"]["encoder"]["train"] = False
    assert estimate_alone(parse_config(frozen, "test")).flops < found.flops


def test_ldm_4_of_text_has_406_million_parameters() -> None:
    """And BERT-base beside it, both of which train."""
    with torch.device("meta"):
        text = TrainedText(BertModel(BertConfig()), mask_padding=False)
        config = load_config("paper-ldm4-cc3m").model
        network = build_model(config, shape=(3, 64, 64), text_width=768, tokens=True, seed=0, text=text)
    assert isinstance(network, UNet)
    assert sum(weight.numel() for weight in network.unet.parameters()) == 406_327_299
    assert sum(weight.numel() for weight in network.text_encoder.parameters()) == 109_482_240


def test_the_command_tells_hours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "paper-dit-xl2-in1k"]) == 0
    out = capsys.readouterr().out
    assert "102,400,000 images x 712 GFLOP, 674.8 M weights: 58.5 hours of one H100, 185 hours of one A100, at 35% (assumed)" in out
    assert "assumed   latents of 4 x 32 x 32: the autoencoder is not here" in out
    assert main(["estimate", "paper-ldm4-in1k", "--set", "images=512000", "--json"]) == 0
    assert '"images": 512000' in capsys.readouterr().out


def test_a_run_tells_its_cost_before_it_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_pictures(tmp_path / "src")
    train_run(small_run(images=16), source, tmp_path / "small")
    assert "estimate" not in capsys.readouterr().err  # seconds
    monkeypatch.setattr("corruptkit_train.cost._CHEAP", 0.0)
    train_run(small_run(images=16), source, tmp_path / "told")
    assert "estimate  16 images x " in capsys.readouterr().err


def test_a_network_that_runs_with_numbers_alone_is_trained_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cost that cannot be told ends no run; who asks for it alone is told why in a line."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Tensor on device meta is not on the expected device cpu!")

    monkeypatch.setattr(cost, "estimate_cost", fail)
    nothing = ClassConditions(lambda _: torch.empty(0, dtype=torch.int64), 4, 0)
    cost.tell_cost(small_run(), nothing, (3, 8, 8), 16)
    folder = save_encoder(tmp_path / "encoder")
    capsys.readouterr()  # transformers' bar
    change = f"condition.encoder.name={folder}"
    assert main(["estimate", "laptop-openmoji-text", "--set", change, "--set", "condition.encoder.max_tokens=6"]) == 2
    said = capsys.readouterr().err
    assert said == f"error: {folder}: its cost cannot be counted without numbers; start the run, which needs no estimate\n"
