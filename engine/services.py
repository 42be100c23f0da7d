"""What an app is made of, handed to every tab: the loaded model and what visitors may do."""

from dataclasses import dataclass, replace
from pathlib import Path

from engine.errors import BadInput
from engine.models import ADAPTERS, MODELS, NO_ADAPTER, resolve
from engine.runtime import Runtime, State


@dataclass(frozen=True)
class Services:
    """`read_only`: a public host, where visitors may not download, upload, train, switch models or see paths."""

    runtime: Runtime
    read_only: bool = False

    def state(self) -> State:
        """The runtime's state; on a public host without the paths and reasons that only its owner should read."""
        state = self.runtime.state
        if not self.read_only:
            return state
        loaded = state.loaded and replace(state.loaded, model=_public(state.loaded.model))
        text = "This host could not load its model; its log says why." if state.phase == "failed" else state.text
        return replace(
            state,
            model=_public(state.model),
            text="Loading" if state.phase == "loading" else text,
            loaded=loaded,
            adapters=tuple(map(_public, state.adapters)),
        )

    def load(self, model: str) -> None:
        """Load a model for everybody, unless it is the one that is loaded or loading. Raises BadInput."""
        if self.read_only:
            raise BadInput("On this public host the model is the owner's choice. Run the app on your own machine for others.")
        state = self.runtime.state
        if state.phase in ("ready", "loading") and state.model == resolve(model).id:
            return
        self.runtime.load(model)

    def adapter(self, shown: str | None) -> str | None:
        """The adapter that a picker's value means, None for the bare base. On a public host only those already on the
        base may be chosen, by their public names. Raises BadInput."""
        if shown in (None, "", NO_ADAPTER):
            return None
        if not self.read_only:
            return shown
        for adapter in self.runtime.state.adapters:
            if _public(adapter) == shown:
                return adapter
        raise BadInput("On this public host only the adapters in the list can be chosen. Run the app on your own machine for others.")

    def model_choices(self) -> list[str]:
        """Ids for a model picker, those on disk first."""
        current = self.state().model
        if self.read_only:
            return [current]
        ids = [spec.id for spec in sorted(MODELS.values(), key=lambda spec: not spec.on_disk)]
        return ids if current in ids or not current else [current, *ids]

    def adapter_choices(self) -> list[str]:
        """Ids for an adapter picker: none, the attached ones, and the registry's for the loaded base."""
        state = self.state()
        base = MODELS[state.model].source if state.model in MODELS else None
        offered = [spec.id for spec in ADAPTERS.values() if spec.base == base and not self.read_only]
        return list(dict.fromkeys([NO_ADAPTER, *state.adapters, *offered]))

    def chosen_adapter(self) -> str:
        """The adapter that the loaded model came with."""
        wanted = self.runtime.wanted_adapter or NO_ADAPTER
        return _public(wanted) if self.read_only else wanted


def _public(name: str) -> str:
    """A model's or adapter's name without the folders it lies in."""
    return Path(name).name if Path(name).is_absolute() else name
