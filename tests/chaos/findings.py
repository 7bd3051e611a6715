"""What a trial finds not to hold.

A finding is `missing` while time may still heal it, and `wrong` when nothing can: a message sent twice
stays sent twice.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Findings:
    """What does not hold."""

    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        """Everything, the worst first."""
        return self.wrong + self.missing

    def compare(self, what: str, found: int, wanted: int) -> None:
        """Notes a number that is too small or too large."""
        if found < wanted:
            self.missing.append(f"{what}: {found} of {wanted}")
        elif found > wanted:
            self.wrong.append(f"{what}: {found}, but {wanted} are right")
