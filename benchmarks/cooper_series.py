"""Weights of cooper-optim's nuPI on random errors, which the tests hold the controller against.

    pip install cooper-optim==1.0.1
    python benchmarks/cooper_series.py > tests/training/cooper_nupi.json

Each series starts at weight 0 with `nuPIInitType.ZEROS`; a weight below 0 or above `largest` is put
back after its step, as Cooper's multipliers are.
"""

import json

import torch
from cooper.optim.torch_optimizers.nupi_optimizer import nuPI, nuPIInitType

SETTINGS = [
    {"gain": 0.1, "proportional": 2.0, "integral": 1.0, "smoothing": 0.5, "largest": 1e9},
    {"gain": 0.1, "proportional": 2.0, "integral": 1.0, "smoothing": 0.0, "largest": 1e9},
    {"gain": 0.2, "proportional": 10.0, "integral": 1.0, "smoothing": 0.0, "largest": 20.0},
    {"gain": 0.7, "proportional": 0.0, "integral": 0.3, "smoothing": 0.9, "largest": 0.5},
]


def main() -> None:
    """Print the series as JSON."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for one in SETTINGS:
        errors = torch.randn(60, generator=generator, dtype=torch.float64)
        weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = nuPI(
            [weight],
            lr=one["gain"],
            Kp=torch.tensor([one["proportional"]], dtype=torch.float64),
            Ki=torch.tensor([one["integral"]], dtype=torch.float64),
            ema_nu=one["smoothing"],
            init_type=nuPIInitType.ZEROS,
            maximize=True,
        )
        weights = []
        for error in errors:
            weight.grad = error[None].clone()
            optimizer.step()
            with torch.no_grad():
                weight.clamp_(0, one["largest"])
            weights.append(float(weight.detach()))
        found.append({"settings": one, "errors": errors.tolist(), "weights": weights})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
