"""The date in a chat template: a run renders all its prompts with the day on which it began."""

from datetime import date

from prefine.config.sections import RunConfig
from prefine.run.config_changes import STAGE_SECTIONS, with_date
from prefine.run.manifests import read_manifests


def with_first_day(config: RunConfig) -> RunConfig:
    """The configuration with today's date, for a policy whose chat template writes the date.

    One that states a date keeps it, and so does a begun run, whose date is in its `config.json`.
    """
    stages = read_manifests(config.run_dir) if config.run_dir.is_dir() else {}
    begun = any("policy" in STAGE_SECTIONS.get(stage, ()) for stage in stages)
    if begun or "date" in config.policy.options or not _is_written(config):
        return config
    return with_date(config, date.today().isoformat())


def date_notes(config: RunConfig) -> list[str]:
    """A note for the manifest: which day the prompts of this run have, and how to change it."""
    day = config.policy.options.get("date")
    if day is None or not _is_written(config):
        return []
    today = date.today().isoformat()
    later = "" if str(day) == today else f" (today is {today})"
    return [
        f"the chat template writes the date: all prompts of this run have {day}{later}, so that "
        "they stay the same on other days; for another one set policy.date in a new run_dir"
    ]


def _is_written(config: RunConfig) -> bool:
    """Return True if the policy's chat template writes the date."""
    if config.policy.name != "hf":
        return False
    from prefine.models.hf.loading import writes_date

    options = config.policy.options
    return writes_date(str(options.get("path", "")), options.get("chat_template"))
