"""Choose the bridger that a configuration names."""

from prefine.bridging.ask import AskedBridger, ComputedBridger
from prefine.bridging.protocol import Bridger, Revises
from prefine.config.sections import BridgeConfig
from prefine.models.capabilities import provided, required
from prefine.models.protocol import Replies


def make_bridger(settings: BridgeConfig, *, where: str = "bridge.model") -> Bridger:
    """Return the bridger of a section `bridge`: a model that is asked, or one that computes.

    Args:
        settings: The section.
        where: Config path of the model, for messages.

    Raises:
        ConfigError: The name or an option is wrong, or the model answers no conversations.
    """
    made = settings.model.resolve("bridger", where=where)()
    if (reviser := provided(made, Revises)) is not None:
        return ComputedBridger(reviser)
    what = f"{where}.name: {settings.model.name!r}"
    return AskedBridger(required(made, Replies, what=what), settings)
