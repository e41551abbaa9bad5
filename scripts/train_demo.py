"""Train the two nets of the built-in demo and write them into the package.

    python scripts/train_demo.py

takes about 20 seconds and, on the same machine with the same PyTorch, writes the same bytes again.

Both nets have the same widths, see the same slightly warped images and train equally long; they
differ in activation, constraint and loss. The bounded net follows Tsuzuku, Sato, Sugiyama,
"Lipschitz-Margin Training" (2018) in asking the loss for a certified radius, with orthogonal
layers and sorting activations as in Anil, Lucas, Grosse, "Sorting out Lipschitz function
approximation" (2019). The settings of both were chosen on validation fifths of the training
split, those of the plain net for accuracy; the test split is only read to print the last table.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from holdfast.sources.demo import DEMO_MODELS, demo_architecture, demo_data, demo_image_shape

SEED = 0
FOLDER = Path(__file__).parents[1] / "src" / "holdfast" / "sources" / "demo_nets"
RADII = (0.1, 0.25, 0.5, 0.75, 1.0)

BATCH, EPOCHS = 256, 300
PLAIN_RATE, BOUNDED_RATE = 1e-2, 2e-2
TARGET = 0.6  # certified l2 radius that the loss asks for, in pixels of [0, 1]
TEMPERATURE = 0.1  # softness of the loss around that radius
WARP = 0.03  # standard deviation of the random affine maps, in half image widths


def train(name: str, inputs: Tensor, labels: Tensor) -> nn.Sequential:
    """Return a trained net; "digits-bounded" has orthogonal hidden layers at every step."""
    bounded = name == "digits-bounded"
    loss, rate = (radius_loss, BOUNDED_RATE) if bounded else (plain_loss, PLAIN_RATE)
    torch.manual_seed(SEED)
    net = demo_architecture(name)
    if bounded:
        make_orthogonal(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    steps = EPOCHS * math.ceil(len(inputs) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs)).split(BATCH):
            optimizer.zero_grad()
            loss(net, warp(inputs[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
            if bounded:
                retract(net)
    if bounded:
        make_orthogonal(net)
    return net


def plain_loss(net: nn.Sequential, x: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy."""
    return functional.cross_entropy(net(x), labels)


def radius_loss(net: nn.Sequential, x: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of the certified radii r_j, short of the target, over T.

    With f_j the logits and w_j the unit rows of the last layer, r_j = (f_y - f_j) / |w_y - w_j|
    and the loss is the mean of log(1 + sum_j exp((target - r_j) / T)) over j other than y.
    """
    last = linear_layers(net)[-1]
    for layer in list(net)[:-1]:
        if isinstance(layer, nn.Linear):
            x = functional.linear(x, newton_step(layer.weight), layer.bias)
        else:
            x = layer(x)
    rows = functional.normalize(last.weight)
    radii = pairwise_radii(functional.linear(x, rows, last.bias), rows, labels)
    shortfall = (TARGET - radii) / TEMPERATURE
    others = functional.one_hot(labels, len(rows)) == 0
    return torch.logsumexp(torch.where(others, shortfall, 0.0), dim=1).mean()


def pairwise_radii(logits: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """Return (f_y - f_j) / |w_y - w_j| for every row and class, 0 where j = y; shape [N, 10]."""
    square = (rows[labels][:, None] - rows[None]).square().sum(-1)
    own = functional.one_hot(labels, len(rows)) == 1
    distance = torch.where(own, 1.0, square).sqrt()
    return (logits.gather(1, labels[:, None]) - logits) / distance


def newton_step(weight: Tensor) -> Tensor:
    """Take one Newton-Schulz step towards the nearest orthogonal matrix (Bjorck, Bowie 1971).

    Returns:
        The next matrix. An orthogonal one stays as it is, and the derivative there is the
        projection onto the directions in which it remains orthogonal: what training needs.
    """
    if weight.shape[0] < weight.shape[1]:
        return newton_step(weight.T).T
    return 1.5 * weight - 0.5 * weight @ (weight.T @ weight)


@torch.no_grad()
def retract(net: nn.Sequential, steps: int = 10) -> None:
    """Move the hidden layers back to orthogonal; scaled to norm <= 1, the steps always converge."""
    for layer in linear_layers(net)[:-1]:
        gram = layer.weight.T @ layer.weight
        weight = layer.weight / gram.abs().sum(1).max().sqrt()
        for _ in range(steps):
            weight = newton_step(weight)
        layer.weight.copy_(weight)


@torch.no_grad()
def make_orthogonal(net: nn.Sequential) -> None:
    """Replace hidden layers by their polar factor, and the last rows by unit rows, in float64."""
    *body, last = linear_layers(net)
    for layer in body:
        left, _, right = torch.linalg.svd(layer.weight.double(), full_matrices=False)
        layer.weight.copy_(left @ right)
    last.weight.copy_(functional.normalize(last.weight.double()))


def warp(x: Tensor) -> Tensor:
    """Return the images, each shifted, turned, stretched and sheared a little."""
    height, width = demo_image_shape("digits")
    affine = torch.eye(2, 3) + WARP * torch.randn(len(x), 2, 3)
    images = x.view(-1, 1, height, width)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False).flatten(1)


def linear_layers(net: nn.Sequential) -> list[nn.Linear]:
    """Return the linear layers in order."""
    return [layer for layer in net if isinstance(layer, nn.Linear)]


@torch.no_grad()
def certified_radii(net: nn.Sequential, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return each row's l2 radius from the product of spectral norms, negative where wrong."""
    *body, last = linear_layers(net)
    gain = torch.stack([torch.linalg.matrix_norm(w.weight.double(), 2) for w in body]).prod()
    radii = pairwise_radii(net(inputs).double(), last.weight.double(), labels) / gain
    return radii.scatter(1, labels[:, None], torch.inf).amin(1)


def main() -> None:
    """Train, write and describe both nets."""
    torch.set_num_threads(1)
    training, test = demo_data("digits", "train"), demo_data("digits", "test")
    FOLDER.mkdir(exist_ok=True)
    print(f"{'test split':<16}{'clean':>8}", *(f"{r:>8g}" for r in RADII), "median radius")
    for name in DEMO_MODELS:
        net = train(name, *training)
        accuracy = (certified_radii(net, *training) > 0).double().mean().item()
        facts = {"seed": SEED, "torch": torch.__version__, "train_accuracy": round(accuracy, 4)}
        # a single entry, because safetensors keeps several in no fixed order
        metadata = {"training": json.dumps(facts, sort_keys=True)}
        (FOLDER / f"{name}.safetensors").write_bytes(save(net.state_dict(), metadata))
        radii = certified_radii(net, *test)
        shares = (f"{(radii > r).double().mean().item():>8.1%}" for r in (0.0, *RADII))
        print(f"{name:<16}", *shares, f"{radii.median().item():.3f}")


if __name__ == "__main__":
    main()
