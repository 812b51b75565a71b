"""Mistakes in the settings of a training are one line that names the setting and what it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_training import config
from model_training.osum import settings as osum
from operators.errors import UserError


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_steps=many", "train.max_steps=many: expected a whole number"),
        ("optimizer.learning_rate=quick", "optimizer.learning_rate=quick: expected a number"),
        ("train.tensorboard=perhaps", "train.tensorboard=perhaps: expected true or false"),
        ("model.moe.experts=[a]", "model.moe.experts[0]=a: expected a whole number"),
        ("optimiser.name=muon", "no setting 'optimiser.name': did you mean optimizer.name?"),
    ],
)
def test_a_wrong_override_is_one_line(override: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        config.load(None, [override])
    assert str(error.value) == words


def test_every_preset_is_known_by_its_name_a_point_in_it_too() -> None:
    for load, folder in ((config.load, config.PRESETS), (osum.load, osum.PRESETS)):
        names = config.presets(folder)
        assert len(names) > 2
        for name in names:
            load(name, [])


def test_a_table_of_ones_own_replaces_that_below_it_and_one_entry_is_added(tmp_path: Path) -> None:
    """As in the settings of curation: else no task of a preset could be taken out but by naming it."""
    assert config.load(None, ["data.tasks={gender: 1}"]).data.tasks == {"gender": 1.0}
    assert config.load(None, ["data.tasks.gender=1"]).data.tasks == {"transcribe": 1.0, "gender": 1.0}
    assert osum.load("osum-tiny", ["data.tasks={asr: 1}"]).data.tasks == {"asr": 1.0}
    assert osum.load("osum-tiny", []).data.tasks == {"asr": 1.0, "asr+gender": 1.0}
    (tmp_path / "my.yaml").write_text("data: {tasks: {gender: 2}}\n")
    mine = config.load(str(tmp_path / "my.yaml"), ["data.tasks.age=1", "train.lr_by_part={encoder.subsampling: 0.5}"])
    assert mine.data.tasks == {"gender": 2.0, "age": 1.0}
    assert config.restore(config.to_dict(mine)) == mine


def test_a_file_that_is_no_yaml_is_named_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("train: [\n")
    with pytest.raises(UserError, match=r"not valid YAML in .*bad\.yaml: .* at line 2, column 1$"):
        config.load(str(tmp_path / "bad.yaml"), [])
