"""A wider network answers as the one it was made from, and can learn with all of its units."""

import pytest
import torch
from click.testing import CliRunner

from scripts.widen import main, widened
from separator import modelfile
from separator.card import ModelCard, TrunkSpec, UmxSpec
from separator.errors import UsageError
from separator.models import build

STEMS = ("vocals", "drums", "bass")
SPEC = TrunkSpec(input_bands=20, hidden=12, lstm_hidden=8, layers=2, head=6, fine_bins=16, mask_bands=24)
CARD = ModelCard(name="tiny", stems=STEMS, n_fft=256, hop=64, spec=SPEC)
MIX = torch.randn(2, 2, CARD.bins, 30, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def trunk():
    torch.manual_seed(0)
    network = build(CARD).eval()
    for weights in network.parameters():        # biases too: what starts at zero would hide a wrong place
        torch.nn.init.normal_(weights, std=0.5)
    return network


@pytest.mark.parametrize("sizes", [
    {"hidden": 20}, {"lstm_hidden": 11}, {"head": 7}, {"hidden": 13, "lstm_hidden": 9, "head": 8}, {},
])
def test_a_wider_network_answers_alike(trunk, sizes):
    card, wide = widened(CARD, trunk, **sizes)
    assert card.spec == SPEC.model_copy(update=sizes)
    assert bool(sizes) == any(a.shape != b.shape for a, b in zip(wide.parameters(), trunk.parameters(), strict=True))
    with torch.no_grad():
        torch.testing.assert_close(wide(MIX, STEMS), trunk(MIX, STEMS), rtol=1e-5, atol=1e-5)


def test_what_leads_out_of_new_units_learns_at_once(trunk):
    _, wide = widened(CARD, trunk, hidden=20, lstm_hidden=11, head=9)
    wide(MIX, STEMS).square().mean().backward()
    grads = {name: weights.grad for name, weights in wide.named_parameters()}
    assert grads["lstm.weight_ih_l0"][:, 12:].abs().amax(0).gt(0).all()
    assert grads["lstm.weight_ih_l1"][:, 8:11].abs().amax(0).gt(0).all()
    assert grads["heads.bass.hidden.weight"][:, 12:20].abs().amax(0).gt(0).all()
    assert grads["heads.bass.masks.weight"][:, 6:].abs().amax(0).gt(0).any()    # one of them may sleep: ReLU


def test_nothing_is_narrowed_and_no_other_family_widened(trunk):
    with pytest.raises(UsageError, match="hidden 11 is less than the 12 of tiny"):
        widened(CARD, trunk, hidden=11)
    umx = ModelCard(name="u", stems=("vocals",), n_fft=256, hop=64, spec=UmxSpec(hidden=8, layers=1, kept_bins=100))
    with pytest.raises(UsageError, match="family umx"):
        widened(umx, build(umx), hidden=16)


def test_the_command_writes_a_model_to_start_from(tmp_path, trunk):
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    modelfile.save(old, CARD, trunk)
    done = CliRunner().invoke(main, [str(old), str(new), "--head", "10"])
    assert done.exit_code == 0, done.output
    card, wide = modelfile.load(new)
    assert f"{sum(each.numel() for each in wide.parameters()):,} parameters" in done.output
    assert card == CARD.model_copy(update={"spec": SPEC.model_copy(update={"head": 10})})
    with torch.no_grad():
        torch.testing.assert_close(wide.eval()(MIX, STEMS), trunk(MIX, STEMS), rtol=1e-5, atol=1e-5)
    again = CliRunner().invoke(main, [str(old), str(new), "--head", "10"])
    assert (again.exit_code, "exists" in again.output) == (1, True)
    refused = CliRunner().invoke(main, [str(old), str(tmp_path / "x"), "--head", "2"])
    assert (refused.exit_code, "head 2 is less than" in refused.output, (tmp_path / "x").exists()) == (1, True, False)
