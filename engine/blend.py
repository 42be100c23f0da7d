"""Which adapters an answer is made with, and how strongly: a value that is chosen for each answer without reloading."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import BadInput
from engine.paths import public_name

MAX_SCALE = 1.5
MAX_PARTS = 4
NO_ADAPTER = "none"


@dataclass(frozen=True)
class Blend:
    """Adapters with the factor each one's change of the base is multiplied by; none at all is the bare base."""

    parts: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, adapters: Sequence[str | None], scales: Sequence[float] = ()) -> "Blend":
        """Adapters by id, with a scale of 0 to 1.5 each (1 where none is given). Names that are empty or `none`, and scales
        of 0, count for nothing. Raises BadInput."""
        if scales and len(scales) != len(adapters):
            raise BadInput(f"Give each adapter its strength: there are {len(adapters)} adapters and {len(scales)} strengths.")
        parts = tuple(
            (adapter, float(scale))
            for adapter, scale in zip(adapters, scales or [1.0] * len(adapters), strict=True)
            if adapter not in (None, "", NO_ADAPTER)
        )
        for adapter, scale in parts:
            if not 0 <= scale <= MAX_SCALE:
                raise BadInput(f"The strength of {adapter} must be between 0 and {MAX_SCALE}, not {scale:g}.")
        if len({adapter for adapter, _ in parts}) < len(parts):
            raise BadInput("An adapter is named twice. Give it once, with the strength it should have.")
        if len(parts) > MAX_PARTS:
            raise BadInput(f"At most {MAX_PARTS} adapters can be mixed.")
        return cls(tuple(part for part in parts if part[1]))

    @property
    def adapters(self) -> tuple[str, ...]:
        """Ids of the adapters."""
        return tuple(adapter for adapter, _ in self.parts)

    @property
    def strongest(self) -> str | None:
        """The adapter that weighs most, whose prompt format counts."""
        return max(self.parts, key=lambda part: part[1])[0] if self.parts else None

    @property
    def label(self) -> str | None:
        """For people, e.g. `guanaco-mini × 0.7 + pirate × 0.3`; None for the bare base."""
        return " + ".join(public_name(adapter) + (f" × {scale:g}" if scale != 1 else "") for adapter, scale in self.parts) or None


BASE = Blend()
