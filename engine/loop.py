"""The training loop: every step of every method, with every augmentation, is made here."""

from __future__ import annotations

from .answers import check_batch, check_weights
from .cadence import passed
from .log import Log
from .trainer import Trainer


def train(trainer: Trainer, log: Log, eval_every: int = 1, steps: int | None = None) -> None:
    """Make the steps that are left of a run, or at most `steps`; evaluate at the end of the run.

    Args:
        trainer: the parts of the run, and where it stands.
        log: gets steps and rows of the curve; writes checkpoints.
        eval_every: budgeted epochs between evaluations.

    Raises:
        Diverged: the losses are no longer finite.
    """
    method, loader, network = trainer.method, trainer.loader, trainer.network
    world, clock = trainer.world, trainer.clock
    last = None if steps is None else trainer.step + steps
    trainer.start()
    while not trainer.finished and trainer.step != last:
        epoch, uniform = trainer.epoch, trainer.starts_uniformly

        # A method may turn candidates down, so that one step takes several draws. Under a budget of
        # compute these may overdraw what is left, by a pass over the data at most.
        batch = None
        while batch is None:
            if loader.exhausted:
                loader.refill(trainer.draw())
                clock.lap("select")
            candidates = loader.next()
            clock.lap("data")
            batch = candidates
            if not uniform:
                batch = check_batch(method.choose(candidates, trainer.score), trainer.task)
            clock.lap("select")  # scoring included: it is a cost of selection
            if batch is None:
                trainer.turn_down(candidates)
        del candidates  # They may be many times the batch, and the step needs the memory.

        trainer.set_learning_rate()
        own, updated = world.part(batch), False
        while not updated:  # An fp16 step that overflows only lowers the scale: it is made again.
            trainer.seed_step()
            own_logits = network(own.images)
            own_losses = own.losses(own_logits)
            # Every process gets the whole batch's results, so that method states stay the same.
            logits, losses = world.gather(own_logits.detach()), world.gather(own_losses.detach())
            clock.lap("train")
            # Weights may depend on the losses, so a method is asked after the forward pass.
            weights = None if uniform else check_weights(method.reweigh(batch, losses), losses)
            clock.lap("select")
            if weights is not None:
                own_losses = world.part(weights) * own_losses
            updated = network.update(own_losses.mean(), trainer.optimizer)
            trainer.check_scale(updated)
        trainer.count_step(batch, logits, losses)
        clock.lap("train")
        method.observe(batch, logits, losses)
        clock.lap("select")  # so all that a method does is timed as selection, and nothing else

        ended = trainer.epoch > epoch  # With a budget of compute, a step may end several epochs.
        if ended:
            trainer.check_losses()  # not after each step, because the host waits for the device
            clock.lap("train")  # what the device had still to do
            evaluation = None
            if passed(eval_every, epoch, trainer.epoch) or trainer.finished:
                evaluation = trainer.evaluate()
                clock.lap("eval")
            log.end_epoch(trainer.finish_epoch(evaluation))
            clock.restart()  # reports are no part of training
        log.end_step(trainer, epoch)
        # All processes must stop after the same step, but agreeing on it costs an exchange (some
        # 0.1 ms), so that they do so only every few steps.
        if not trainer.finished and (ended or world.should_sync(trainer.step)):
            log.handle_signals(trainer)
