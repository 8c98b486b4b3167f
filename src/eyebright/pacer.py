"""`Pacer`: a run by the clock is over when it should be."""

import time

from eyebright.optim import Schedule
from eyebright.plan import CLOSING, Plan
from eyebright.training import EpochResult, Position

LATE = 0.02  # of the steps left; to be later than that is put right before the epoch is over ...
SURE = 5  # ... but not before so many steps, and seconds, of it: the first ones are slow


class Pacer:
    """Keeps a run within its time: changes how many steps are left.

    At the end of an epoch the rest gets just the steps that there is time for; within an epoch it
    is cut short if the run would be late, because the machine has become slower.

    Args:
        plan: gets each change.
        deadline: when the command shall be over, of ``time.monotonic``.
        schedule: of the run, which is changed.
        steps_per_epoch: of the run.
        position: where it begins.
        measuring: steps' time, for what is measured after the last one
            (`eyebright.measuring.steps_to_measure`).
    """

    def __init__(
        self,
        plan: Plan,
        deadline: float,
        schedule: Schedule,
        steps_per_epoch: int,
        position: Position,
        measuring: float = 0.0,
    ):
        self.plan, self.measuring = plan, measuring
        self.deadline, self.schedule, self.steps_per_epoch = deadline, schedule, steps_per_epoch
        # Step and clock at the beginning of the epoch, or where it was gone on with.
        self._begun = (position.step, time.monotonic())
        self._trained = position.seconds
        self._pause = 0.0  # seconds of validation and saving after the last epoch

    def look(self, step: int) -> bool:
        """In the middle of an epoch: cut the run short if it would be late; whether it was."""
        first, begun = self._begun
        now = time.monotonic()
        if step - first < SURE or now - begun < SURE:
            return False
        left = self.deadline - now - CLOSING - self._pause
        steps = max(0, int(left * (step - first) / (now - begun) - self.measuring))
        late = steps < (1 - LATE) * (self.schedule.total_steps - step)
        return late and self._change(step, steps)

    def epoch_is_over(self, result: EpochResult) -> None:
        """Fit the rest of the run into the time that is left; towards a target only shorten it."""
        now = time.monotonic()
        first, begun = self._begun
        self._begun = (result.step, now)
        trained, self._trained = result.seconds - self._trained, result.seconds
        self._pause = max(0.0, now - begun - trained)
        if result.step >= self.schedule.total_steps:
            return
        step_seconds = trained / (result.step - first) + self._pause / self.steps_per_epoch
        left = self.deadline - now - CLOSING - self._pause
        steps = max(0, int(left / step_seconds - self.measuring))
        if self.plan.target is None or steps < self.schedule.total_steps - result.step:
            self._change(result.step, steps)

    def _change(self, step: int, steps: int) -> bool:
        # What was changed before an interruption is changed again at the same steps.
        decided = self.plan.changes and step <= self.plan.changes[-1][0]
        if decided or step + steps == self.schedule.total_steps:
            return False
        self.schedule.change(step, step + steps)
        self.plan.changes.append((step, step + steps))
        return True
