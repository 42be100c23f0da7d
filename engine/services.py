"""What an app is made of, handed to every tab: the loaded model and what visitors may do."""

from dataclasses import dataclass

from engine.errors import BadInput
from engine.models import ADAPTERS, MODELS, NO_ADAPTER
from engine.runtime import Runtime


@dataclass(frozen=True)
class Services:
    """`read_only`: a public host, where visitors may not download, upload, train or name file paths."""

    runtime: Runtime
    read_only: bool = False

    def check_model(self, name: str) -> None:
        """On a read-only host only registry models already on disk may be chosen. Raises BadInput."""
        if self.read_only and not (name in MODELS and MODELS[name].on_disk):
            raise BadInput("On this public host only models that are already here can be chosen. Run the app on your own machine for others.")

    def check_adapter(self, name: str) -> None:
        """On a read-only host only adapters already attached may be chosen. Raises BadInput."""
        if self.read_only and name != NO_ADAPTER and name not in self.runtime.state.adapters:
            raise BadInput("On this public host only the adapters in the list can be chosen. Run the app on your own machine for others.")

    def model_choices(self) -> list[str]:
        """Ids for a model picker, those on disk first."""
        known = [*MODELS.values()]
        shown = [spec for spec in known if spec.on_disk or not self.read_only]
        ids = [spec.id for spec in sorted(shown, key=lambda spec: not spec.on_disk)]
        current = self.runtime.state.model
        return ids if current in ids or not current else [current, *ids]

    def adapter_choices(self) -> list[str]:
        """Ids for an adapter picker: none, the attached ones, and the registry's for the loaded base."""
        state = self.runtime.state
        base = MODELS[state.model].source if state.model in MODELS else None
        offered = [spec.id for spec in ADAPTERS.values() if spec.base == base and not self.read_only]
        return list(dict.fromkeys([NO_ADAPTER, *state.adapters, *offered]))
