"""The training loop: every step of every method and augmentation is made here."""

from __future__ import annotations

from .cadence import passed
from .log import Log
from .trainer import Trainer


def train(trainer: Trainer, log: Log, eval_every: int = 1, steps: int | None = None) -> None:
    """Make the steps that are left of a run.

    Args:
        trainer: what is trained, and where it stands.
        log: is told of steps and epochs, and writes checkpoints where it is to.
        eval_every: budgeted epochs between evaluations; there is one at the end in any case.
        steps: at most as many; by default, as many as the budget still pays for.

    Raises:
        Diverged: the losses are no longer finite.
    """
    method, loader, network = trainer.method, trainer.loader, trainer.network
    world, clock = network.world, trainer.clock
    stop = None if steps is None else trainer.step + steps
    trainer.start()
    while not trainer.finished and trainer.step != stop:
        epoch, uniform = trainer.epoch, trainer.starts_uniformly

        # A method may turn down candidates, or keep them until they make a whole batch: one step
        # may take several draws. Steps of a uniform start are plain SGD's, draws included.
        batch = None
        while batch is None:
            if loader.exhausted:
                drawing = method.plain if uniform else method
                block = drawing.draw(trainer.progress)
                # The first draw of the method itself is to be made when its own steps begin.
                loader.refill(block[: method.uniform_steps - trainer.step] if uniform else block)
                clock.lap("select")
            candidates = loader.next()
            clock.lap("data")
            batch = candidates if uniform else method.choose(candidates, trainer.score)
            clock.lap("select")  # with what scoring the candidates took

        trainer.set_learning_rate()
        own = world.part(batch)
        updated = False
        while not updated:  # under fp16, a step that overflows only lowers the scale: make it again
            trainer.seed_step()  # of each try alike, so that a repeated step drops what it did
            own_logits = network(own.images)
            own_losses = own.losses(own_logits)
            # All processes see the whole batch, so that the method's state stays the same in all.
            logits, losses = world.gather(own_logits.detach()), world.gather(own_losses.detach())
            clock.lap("train")
            # Asked only now, because a weight may depend on the loss that it is for.
            weights = None if uniform else method.reweigh(batch, losses)
            clock.lap("select")
            if weights is not None:
                own_losses = world.part(weights) * own_losses
            updated = network.update(own_losses.mean(), trainer.optimizer)
            trainer.check_scale(updated)
        trainer.count_step(batch, logits, losses)
        clock.lap("train")  # the forward pass was the lap before: between them the method had a say
        method.observe(batch, logits, losses)
        clock.lap("select")

        ended = trainer.epoch > epoch  # of a budget of compute, one step may end several epochs
        if ended:
            trainer.check_losses()  # only now: reading a number makes the host wait for the device
            clock.lap("train")
            evaluation = None
            if passed(eval_every, epoch, trainer.epoch) or trainer.finished:
                evaluation = trainer.evaluate()
                clock.lap("eval")
            log.end_epoch(trainer.finish_epoch(evaluation))
        log.end_step(trainer, epoch)
        # A signal may have reached one process alone, so all have to agree to act on it. That costs
        # an exchange, some 0.1 ms, hence not after every step.
        if not trainer.finished and (ended or world.should_sync(trainer.step)):
            log.handle_signals(trainer)
