"""The training loop. One for every task, start and strategy; it reads top to bottom.

What step i does is a function of the setting, the seed and i alone, so a run killed at any moment
resumes from its last checkpoint to the same numbers, bit for bit on a CPU with the same thread count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from medgraft.config import TrainConfig
from medgraft.data import loader
from medgraft.data.batch import Samples
from medgraft.data.random import torch_seed
from medgraft.engine import checkpoint, optim
from medgraft.errors import UserError
from medgraft.files import write_text
from medgraft.models import strategy
from medgraft.tasks.task import Task

SAMPLED = 10  # steps whose loss says where training began, and where it ended


@dataclass
class History:
    """What a fit leaves besides weights."""

    rows: list[dict[str, float]] = field(default_factory=list)  # one per evaluation
    best_step: int = 0
    best_score: float = float("nan")
    seconds: float = 0.0
    wait_share: float = 0.0
    resumed_from: int = 0
    opening: list[float] = field(default_factory=list)  # the loss of the first steps
    closing: list[float] = field(default_factory=list)  # and of the last that were made

    @property
    def losses(self) -> tuple[float, float] | None:
        """Mean training loss of the first ``SAMPLED`` steps, and of as many at the end; None below two such spans."""
        if len(self.opening) < SAMPLED or len(self.closing) < SAMPLED:
            return None
        return sum(self.opening) / SAMPLED, sum(self.closing) / SAMPLED


@dataclass(frozen=True)
class Loading:
    """How batches are fetched. None of it changes a number."""

    workers: int = 0
    prefetch: int = 2


def train(
    fabric: Fabric,
    model: torch.nn.Module,
    task: Task,
    samples: Samples,
    setting: TrainConfig,
    *,
    seed: int,
    horizon: int,
    stop: int | None = None,
    how: str = "finetune",
    evaluate: Callable[[torch.nn.Module], tuple[float, Any]] | None = None,
    folder: Path | None = None,
    checkpoint_seconds: float = 60.0,
    loading: Loading = Loading(),
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> tuple[History, Any]:
    """Train ``model`` for ``stop`` of ``horizon`` steps and return the history and what ``evaluate`` gave at the best
    step.

    ``evaluate(model) -> (score, anything)`` is called ``setting.evaluations`` times, evenly spaced and at
    the end; with ``setting.patience`` the best step's weights are put back and training stops early.
    ``folder`` receives ``last.ckpt`` every ``checkpoint_seconds`` and ``log.csv``; a checkpoint found there
    is resumed. With ``setting.keep_every`` and ``evaluate`` it also receives the best weights so far at the
    end of every so many epochs, ``best-<epoch>.ckpt``, and of the whole fit, ``best-overall.ckpt``: {model,
    step, score}. Raises ``UserError`` when the loss stops being a number.
    """
    stop = horizon if stop is None else min(stop, horizon)

    higher = task.metric.direction != "lower"

    # -- what trains, and how fast ---------------------------------------------------------------
    opening = max(1, round(2 * setting.unfreeze * horizon)) if how == "gradual" else None
    open_stages = strategy.apply(model, how, steps=opening)  # type: ignore[arg-type]
    optimizer = optim.make_optimizer(model, setting)  # type: ignore[arg-type]
    pull = strategy.L2SP(model, setting.l2sp) if setting.l2sp else None  # type: ignore[arg-type]
    module, optimizer = fabric.setup(model, optimizer)
    looks = (
        {max(1, round(stop * (k + 1) / setting.evaluations)) for k in range(setting.evaluations)} if evaluate else set()
    )
    keeping = keeps(setting, len(samples), stop) if evaluate and folder is not None else {}
    looks |= set(keeping)
    history, kept, best_weights, first, since = History(), None, None, 0, 0
    so_far: dict[str, Any] | None = None  # the best of all looks, whatever the fit ends with
    running, counted = torch.zeros(()), 0

    # -- resume ----------------------------------------------------------------------------------
    if folder is not None and (state := checkpoint.load(folder / "last.ckpt")) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, since, best_weights, kept = state["step"], state["since"], state["best_weights"], state["kept"]
        so_far = state["so_far"]
        history = History(**state["history"])
        history.resumed_from = first
        running, counted = state["running"], state["counted"]

    # -- steps -----------------------------------------------------------------------------------
    began, saved, spent, finished = time.perf_counter(), time.perf_counter(), history.seconds, first
    running = fabric.to_device(running)
    batches = loader.train_batches(
        samples,  # type: ignore[arg-type]
        seed=seed,
        first_step=first,
        steps=stop - first,
        batch_size=setting.batch_size,
        balanced=setting.balanced,
        workers=loading.workers,
        prefetch=loading.prefetch,
    )
    model.train()
    for step, batch in batches:
        torch.manual_seed(torch_seed(seed, step))  # dropout draws are a function of (seed, step) too
        if how == "gradual":
            open_stages(step)
        optim.set_rate(optimizer, optim.rate_factor(setting, step, horizon))
        batch = fabric.to_device(batch)
        output = module(batch)
        loss = task.loss(output, batch)["loss"]
        side = getattr(getattr(model, "auxiliary", None), "answer", None)
        if side is not None:  # a side tower of the body answers too, and its loss counts in part
            loss = loss + setting.auxiliary_weight * task.loss(side, batch)["loss"]
        if pull is not None:
            loss = loss + pull()
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        if setting.clip_gradient is not None:
            fabric.clip_gradients(module, optimizer, max_norm=setting.clip_gradient)
        optimizer.step()
        running, counted, finished = running + loss.detach(), counted + 1, step + 1
        if step < SAMPLED:
            history.opening.append(float(loss.detach()))
        elif step >= stop - SAMPLED:
            history.closing.append(float(loss.detach()))

        # -- look at the select part -------------------------------------------------------------
        if finished in looks or finished == stop:
            train_loss = float(running) / counted
            if train_loss != train_loss:
                raise UserError(
                    "the training loss is not a number", fix="lower train.learning_rate, or set train.clip_gradient=1"
                )
            running, counted = torch.zeros_like(running), 0
            score, result = evaluate(model) if evaluate else (float("nan"), None)
            model.train()
            history.rows.append(
                {
                    "step": finished,
                    "learning_rate": optimizer.param_groups[0]["lr"],
                    "train_loss": train_loss,
                    "select_score": score,
                }
            )
            if keeping and best_is(score, so_far["score"] if so_far else float("nan"), higher):
                so_far = {
                    "model": {k: v.detach().cpu().clone() for k, v in model.state_dict().items()},
                    "step": finished,
                    "score": float(score),
                }
            if finished in keeping and folder is not None and so_far is not None:
                checkpoint.save(folder / f"best-{keeping[finished]:03d}.ckpt", so_far)
            better = best_is(score, history.best_score, higher)
            if setting.patience is None or better:
                history.best_step, history.best_score, kept, since = finished, score, result, 0
                if setting.patience is not None and finished < stop:
                    best_weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
                else:
                    best_weights = None
            else:
                since += 1
            if setting.patience is not None and since >= setting.patience:
                break
        if progress is not None:
            progress(finished, stop, {"wait": batches.waiting_share, "score": history.best_score})

        # -- never lose more than a minute ---------------------------------------------------------
        if folder is not None and finished < stop and time.perf_counter() - saved >= checkpoint_seconds:
            history.seconds = spent + time.perf_counter() - began
            checkpoint.save(
                folder / "last.ckpt",
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": finished,
                    "since": since,
                    "running": running.cpu(),
                    "counted": counted,
                    "best_weights": best_weights,
                    "kept": kept,
                    "so_far": so_far,
                    "history": asdict(history),
                },
            )
            saved = time.perf_counter()

    batches.close()

    # -- leave the best weights, and a log -----------------------------------------------------------
    if best_weights is not None:
        model.load_state_dict(best_weights)
    model.eval()
    history.seconds = spent + time.perf_counter() - began
    history.wait_share = batches.waiting_share
    if folder is not None:
        write_log(folder / "log.csv", history.rows)
        if so_far is not None:
            checkpoint.save(folder / "best-overall.ckpt", so_far)
    return history, kept


def keeps(setting: TrainConfig, n: int, stop: int) -> dict[int, int]:
    """Steps after which the best weights so far are kept -> epoch, for a fit of ``stop`` steps on ``n`` cases."""
    if setting.keep_every is None:
        return {}
    found, number = {}, 1
    while (step := round(number * setting.keep_every * n / setting.batch_size)) <= stop:
        found[max(1, step)] = round(number * setting.keep_every)
        number += 1
    return found


def best_is(score: float, best: float, higher_is_better: bool) -> bool:
    """Whether ``score`` beats ``best``; an undefined score never does, a defined one always beats an undefined one."""
    if score != score:
        return best != best
    if best != best:
        return True
    return score > best if higher_is_better else score < best


def write_log(path: Path, rows: list[dict[str, float]]) -> None:
    """``log.csv``: one line per evaluation."""
    names = ["step", "learning_rate", "train_loss", "select_score"]
    lines = [",".join(names), *(",".join(f"{row[n]:.10g}" for n in names) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")
