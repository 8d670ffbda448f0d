"""Short trainings of backbones: a quiet trainer, and its state to compare runs by."""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


def trainer(folder, steps=4, **changes):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    settings = {"enable_checkpointing": "callbacks" in changes, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    steps = {"default_root_dir": folder, "max_epochs": -1, "max_steps": steps, "limit_val_batches": 0}
    return Trainer(**{**quiet, **settings, **steps, **changes})


def saving(folder, every=3):
    return ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=every)


def state(model, run):
    """Weights, and the state of the optimiser."""
    tensors = dict(model.state_dict())
    for i, entry in run.optimizers[0].state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in entry.items()}
    return tensors
