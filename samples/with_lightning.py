"""Lightning's Trainer trains a module that holds a cut net; gradients of two batches add up in each step."""

import argparse
import logging
import warnings

import pytorch_lightning as lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dni_fx
from dni_fx.integrations.lightning import DecoupledCallback


class _Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU()) for _ in range(4)]
        self.net = dni_fx.decouple(nn.Sequential(*layers, nn.Linear(16, 4)), plan="balanced:stages=3")

    def training_step(self, batch: list[Tensor], at: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x, dni_context=y), y)

    def validation_step(self, batch: list[Tensor], at: int) -> None:
        x, y = batch
        self.log("accuracy", (self.net(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning)  # on workers, for data that fit in a few pages
    warnings.filterwarnings("ignore", "`isinstance", FutureWarning)

    torch.manual_seed(0)
    x = torch.randn(2048, 16)
    data = TensorDataset(x, (x @ torch.randn(16, 4)).argmax(1))
    batches = DataLoader(data, batch_size=32, shuffle=True)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accumulate_grad_batches=2,
        callbacks=[DecoupledCallback()],
        accelerator="cpu",
        logger=False,
        **quiet,
    )
    trainer.fit(_Classifier(), batches, DataLoader(data, batch_size=512))
    for name, value in trainer.callback_metrics.items():
        print(f"{name:20} {value:.3f}")
