"""The section `bridge`: its bridger and judge, and its checks before anything is spent."""

from prefine.bridging.choose import make_bridger
from prefine.bridging.protocol import Bridger
from prefine.config.base import Component
from prefine.config.checking import listed
from prefine.config.sections import BridgeConfig, RunConfig
from prefine.errors import ConfigError
from prefine.judging.choose import make_judge
from prefine.judging.protocol import Judge
from prefine.records import Completion, Message, Prompt

_EMPTY = Message(role="assistant", content="")


def section_of(config: RunConfig) -> BridgeConfig:
    """The section `bridge`.

    Raises:
        ConfigError: There is none.
    """
    if config.bridge is None:
        raise ConfigError(
            "bridge: this configuration has no section bridge, so there is nothing to rewrite; add "
            "bridge: {model: {name: …}}"
        )
    return config.bridge


def judge_component(config: RunConfig) -> tuple[Component, str] | None:
    """The judge of rewritten answers and its config path; None where nobody is asked.

    Raises:
        ConfigError: It is that of section `rank`, and there is no such section; or it knows the
            grades of existing answers only.
    """
    settings = section_of(config)
    if settings.judge is None:
        return None
    found = (settings.judge, "bridge.judge")
    if settings.judge == "rank":
        if config.rank is None:
            raise ConfigError(
                "bridge.judge: nobody judges whether a rewritten answer beats the rejected one, as "
                "there is no section rank; give bridge.judge, such as {name: pairwise, model: …}, "
                "or null to take every rewriting unjudged"
            )
        found = (config.rank.judge, "rank.judge")
    component, where = found
    assert isinstance(component, Component), "what is no component was handled above"
    if component.name == "recorded":
        raise ConfigError(
            f"{where} is 'recorded', which has grades of existing answers and none "
            "of rewritten ones; give bridge.judge, such as {name: pairwise, model: …}, or null to "
            "take every rewriting unjudged"
        )
    return component, where


def configured_judge(config: RunConfig) -> Judge | None:
    """The judge of rewritten answers; None where nobody is asked.

    Raises:
        ConfigError: As `judge_component`, or a name or option is wrong.
    """
    found = judge_component(config)
    return None if found is None else make_judge(found[0], where=found[1])


def judgments_each(judge: Judge | None, settings: BridgeConfig) -> int:
    """The judgments of a rewriting: none, one, or both orders."""
    if judge is None:
        return 0
    if settings.order == "auto":
        return 2 if judge.first_slot_bias else 1
    return 2 if settings.order == "both" else 1


class BridgeCheck:
    """Checks that bridger and judge can work on answers to a prompt; nothing is asked.

    Args:
        config: A configuration with a section `bridge`.

    Raises:
        ConfigError: Something of the section cannot be used.
    """

    def __init__(self, config: RunConfig) -> None:
        self.bridger: Bridger = make_bridger(section_of(config))
        self.judge = configured_judge(config)

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Raise DataError if one of them cannot; `completions` are those that there are."""
        self.bridger.check(prompt)
        if self.judge is not None:
            # A stand-in for the rewriting, which has no metadata.
            new = Completion(id="rewritten", prompt_id=prompt.id, sample_index=0, message=_EMPTY)
            self.judge.check(prompt, [new, *completions])


def bridge_check(config: RunConfig) -> BridgeCheck | None:
    """The checks of a section `bridge`; None without one.

    Raises:
        ConfigError: The section does not go together with the rest of the configuration.
    """
    if config.bridge is None:
        return None
    entries = list(config.items_entries)
    if entries not in ([], ["pairs"]):
        raise ConfigError(
            f"bridge: rewrites the rejected answers of pairs, and this configuration starts with "
            f"{listed(entries)}; take the section out"
        )
    if not entries:
        from prefine.pairing.protocol import selector_facts

        selector = config.pair.selector
        if selector_facts(selector.lookup("selector", where="pair.selector")).makes == "lists":
            raise ConfigError(
                f"bridge: rewrites the rejected answers of pairs, and pair.selector "
                f"{selector.name!r} makes lists; choose another selector, or take the section out"
            )
    return BridgeCheck(config)
