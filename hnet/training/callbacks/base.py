"""`Callback`: the moments of a run at which a feature may act."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hnet.training.run import Run
    from hnet.training.step import StepResult

Row = dict[str, Any]
"""One line of `metrics.jsonl`."""


class Callback:
    """Does nothing at any moment; a feature overrides the moments that it needs."""

    def on_start(self, run: "Run") -> None:
        """Once, before the first step; `run.state` is that of the resumed checkpoint, if there is one."""

    def on_step(self, run: "Run", result: "StepResult") -> None:
        """After every step."""

    def on_row(self, run: "Run", row: Row) -> None:
        """When a step is logged."""

    def on_stop(self, run: "Run") -> None:
        """The run was asked to stop before its last step; the step is finished."""

    def on_end(self, run: "Run") -> None:
        """All steps are done, now or in an earlier start of the same run."""

    def close(self) -> None:
        """Always, also after an error; must not communicate with other ranks."""


def numbers(row: Row) -> dict[str, float]:
    """The numbers of a row by name, for trackers; those of stage s of `boundary` as `boundary/s/NAME`."""
    found = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "step"}
    for stage, fields in enumerate(row["boundary"]):
        found |= {f"boundary/{stage}/{name}": value for name, value in fields.items() if value is not None}
    return found
