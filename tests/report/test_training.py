"""The picture of the losses of a training."""

import json

import numpy as np
import pytest
from PIL import Image

from alan.cli.main import main
from alan.errors import DataError
from alan.report.figures import LOSSES, write_losses


def write_metrics(folder, lines):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_losses_of_a_training_are_drawn(tmp_path, capsys):
    write_metrics(tmp_path, [{"step": n, "loss": 5 - n, "lr": 0.1} for n in range(4)])
    assert main(["report", str(tmp_path)]) == 0
    assert f"losses: {tmp_path / LOSSES}" in capsys.readouterr().err
    falling = np.asarray(Image.open(tmp_path / LOSSES).convert("L"))
    write_metrics(tmp_path, [{"step": n, "loss": 1 + n, "lr": 0.1} for n in range(4)])
    rising = np.asarray(Image.open(write_losses(tmp_path)).convert("L"))
    assert falling.shape == rising.shape
    assert (falling != rising).any()


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "cannot be read"), ("", "cannot be read|no loss"), ('{"step": 1, "lr": 2}', "no loss")],
)
def test_metrics_without_a_loss_are_refused(tmp_path, content, words):
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(DataError, match=words):
        write_losses(tmp_path)


def test_a_folder_without_results_and_metrics_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "or the metrics.jsonl of a training" in capsys.readouterr().err
