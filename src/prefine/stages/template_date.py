"""The date in a chat template: a run renders all its prompts with the day on which it began."""

from datetime import date
from pathlib import Path

from prefine.config.sections import RunConfig
from prefine.run.config_changes import RENDERED_HERE, STAGE_SECTIONS, with_date
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
    if config.policy.name not in RENDERED_HERE:
        return False
    options = config.policy.options
    folder = Path(str(options.get("path", "")))
    if "chat_template" not in options and _asks_no_clock(folder):
        return False
    # Here and not above: sampling at a server loads no torch.
    from prefine.models.hf.loading import writes_date

    return writes_date(str(folder), options.get("chat_template"))


def _asks_no_clock(folder: Path) -> bool:
    """Return True if a model's folder, and not an adapter's, has no template with a clock in it."""
    names = ("chat_template.jinja", "tokenizer_config.json")
    texts = [(folder / name).read_bytes() for name in names if (folder / name).is_file()]
    is_adapter = (folder / "adapter_config.json").exists()
    return bool(texts) and not is_adapter and not any(b"strftime_now" in text for text in texts)
