"""One epoch of training, and accuracy."""

import math
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F
from torch.utils.data import Subset

from slimgraph.analysis import analyze
from slimgraph.errors import SlimgraphError
from slimgraph.train.recipe import Stage, penalty_of, rate
from slimgraph.train.run import Run, broadcast
from slimgraph.train.state import State


def train_epoch(run: Run, state: State, stage: Stage) -> dict[str, Any]:
    """Train for an epoch; with the penalty if it is one of sparsity training."""
    recipe, accelerator = run.recipe, run.accelerator
    penalty = None
    if stage.kind == "sparse":
        penalty = penalty_of(recipe, analyze(state.model), first=state.done == 0)
    count = len(run.data.train)
    order = torch.randperm(
        count, generator=torch.Generator().manual_seed(recipe.seed_at(state.done))
    )
    loader = run.batches(Subset(run.data.train, order.tolist()), drop_last=True)
    prepared = accelerator.prepare(state.model, state.optimizer, loader)
    model, optimizer, batches = prepared
    model.train()
    losses = []
    for step, (inputs, target) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, stage, step / len(batches))
        optimizer.zero_grad()
        loss = _loss(run, stage, model(inputs), inputs, target)
        accelerator.backward(loss)
        if penalty is None:
            optimizer.step()
        else:
            accelerator.unscale_gradients(optimizer)
            penalty.step(optimizer)
        losses.append(loss.detach())
    state.model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    broadcast(list(state.model.buffers()))  # every process took statistics of its own share
    mean = float(accelerator.reduce(torch.stack(losses).mean(), "mean"))
    if not math.isfinite(mean):
        raise SlimgraphError(
            f"training diverged: the loss is {mean} in {stage}",
            hint="use a smaller learning rate or penalty, in a new folder",
        )
    with torch.no_grad():
        pull = None if penalty is None else float(penalty())
    return {"lr": rate(recipe, stage, 0.0), "loss": mean, "penalty": pull}


def _loss(run: Run, stage: Stage, made: Tensor, inputs: Tensor, target: Tensor) -> Tensor:
    """Cross entropy; while fine-tuning also with the dense model's answers, if asked for.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
    task, share, heat = F.cross_entropy(made, target), run.recipe.distill, run.recipe.temperature
    if stage.kind != "tune" or not share:
        return task
    with torch.no_grad():
        wanted = F.softmax(run.teacher(inputs) / heat, 1)
    soft = F.kl_div(F.log_softmax(made / heat, 1), wanted, reduction="batchmean")
    return (1 - share) * task + share * heat**2 * soft


@torch.no_grad()
def accuracy(run: Run, model: fx.GraphModule) -> float:
    """Return the share of test images that are answered right, all processes at work."""
    loader = run.accelerator.prepare(run.batches(run.data.test))
    model.eval()
    found = [
        run.accelerator.gather_for_metrics(model(inputs).argmax(1) == target)
        for inputs, target in loader
    ]
    return float(torch.cat(found).double().mean())


@torch.no_grad()
def accuracy_held_out(run: Run, model: fx.GraphModule) -> float:
    """Return the same for the held-out images, which every process goes through alone."""
    device = run.accelerator.device
    found = [
        model(inputs.to(device)).argmax(1) == target.to(device)
        for inputs, target in run.batches(run.data.held_out)
    ]
    return float(torch.cat(found).double().mean())
