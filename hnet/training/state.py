"""`TrainState`: how far a run has come."""

from dataclasses import dataclass

from hnet.training.step import StepResult


@dataclass(slots=True)
class TrainState:
    step: int = 0
    """Finished steps, skipped ones included."""
    bytes_seen: int = 0
    """Target bytes of all finished steps over all ranks."""
    skipped_steps: int = 0
    """Steps that changed nothing because loss or gradient was not finite."""
    nonfinite_in_a_row: int = 0

    @property
    def num_updates(self) -> int:
        """Updates that the optimizer has made."""
        return self.step - self.skipped_steps

    def advance(self, result: StepResult) -> None:
        """Count one finished step."""
        self.step = result.step
        self.bytes_seen += result.target_bytes
        self.skipped_steps += result.skipped
        self.nonfinite_in_a_row = self.nonfinite_in_a_row + 1 if result.skipped else 0
