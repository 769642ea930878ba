"""Publish a run: check everything, then one commit for each repository."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefine.config.sections import RunConfig
from prefine.config.yaml import validate
from prefine.errors import BackendError, ConfigError
from prefine.hub.cards import (
    UNKNOWN,
    Licences,
    dataset_repository_card,
    header_of,
    model_repository_card,
    stated_licence,
)
from prefine.hub.client import card_of, client, hub_errors, hub_token, library
from prefine.hub.contents import (
    RECORD_NAME,
    Published,
    Repository,
    RepoType,
    What,
    read_record,
    record_of,
    repositories,
)
from prefine.hub.leaks import absolute_paths, hub_id_in_cache, refuse_leaks, without_paths
from prefine.report.data import ReportData
from prefine.run.manifests import read_manifests
from prefine.run.tables import column, existing_parts
from prefine.run.view import RunView
from prefine.secrets import read_secret, remember_environment
from prefine.stages.report import report_data

_CARD = "README.md"


@dataclass(frozen=True)
class Prepared:
    """Checked repositories that would be published, and what was rewritten in their files.

    Attributes:
        repositories: With cards and records.
        licences: What is known of them.
        rewritten: Each file with what was rewritten in it.
    """

    repositories: tuple[Repository, ...]
    licences: Licences
    rewritten: tuple[str, ...]

    @property
    def without_licence(self) -> list[RepoType]:
        """The repositories whose licence nobody knows."""
        found = []
        for one in self.repositories:
            if stated_licence(_card(one).read().decode("utf-8", "replace")) is None:
                found.append(one.type)
        return found

    def cards(self) -> list[str]:
        """The text of each repository's card."""
        return [_card(one).read().decode("utf-8", "replace") for one in self.repositories]


def prepare(
    run: Path,
    what: Sequence[What],
    *,
    repo: str,
    licence: str | None = None,
    base_model: str | None = None,
) -> Prepared:
    """Return everything that would be published, after it was checked; nothing is sent.

    Args:
        run: The run folder.
        what: model, pairs, report.
        repo: The id of the repositories.
        licence: Of what is published, where it is not that of the base model or the data.
        base_model: The base model's id on the hub, where the run has a folder.

    Raises:
        ConfigError: The run has nothing of it yet; or it holds a key or a path of this machine.
        DataError: A file of the run is damaged.
    """
    hub_token()  # from here on it is found in files
    remember_environment()
    view = RunView(run)
    values = view.config()
    if values.get("rounds") and not (run / "pairs").is_dir():
        raise ConfigError(f"{run}: a run of rounds; name the round to publish, such as round-01")
    config = validate({**values, "run_dir": str(run)}, where=str(run / "config.json"))
    _check_ended(run, config, what)
    _remember_keys(values)
    commands = [one.command for one in read_manifests(run).values()]
    own = absolute_paths([values, *commands, str(run.resolve()), str(Path.cwd())])
    base_path = _base_path(config)
    base = base_model or _base_on_hub(run, base_path)
    data = report_data(config, view)
    licences = _licences(config, base, base_path, licence)
    found, rewritten = [], []
    for repository in repositories(config, what):
        files = []
        for file in _with_card(repository, config, data, licences, repo=repo, base=base):
            clean, said = without_paths(file, base, own)
            files.append(clean)
            if said:
                rewritten.append(f"{file.name}: {said}")
        refuse_leaks(files, own)
        whole = replace(repository, files=tuple(files))
        found.append(replace(whole, files=(*files, record_of(whole))))
    return Prepared(tuple(found), licences, tuple(rewritten))


def push(prepared: Prepared, repo: str, *, public: bool) -> list[str]:
    """Make the repositories where they are missing, and one commit in each; return their URLs.

    Files of an earlier push that are no longer there are deleted in the same commit.

    Raises:
        ConfigError: A licence is not known; there is no token, or it may not write; or a
            repository can be read by everybody and `public` is not given.
        BackendError: The hub cannot be reached, or has not kept what was sent.
    """
    if missing := prepared.without_licence:
        made_from = " and ".join("base model" if one == "model" else "data" for one in missing)
        raise ConfigError(
            f"{repo}: the licence of the {made_from} is not known; say under which licence this is "
            f"published with --license, such as --license apache-2.0 (or --license {UNKNOWN})"
        )
    api = client(writes=True)
    with hub_errors(repo):
        # All are looked at before anything is sent to one of them.
        for one in prepared.repositories:
            _refuse_public(api, repo, one.type, public)
        return [_commit(api, repo, one, public) for one in prepared.repositories]


def _commit(api: Any, repo: str, repository: Repository, public: bool) -> str:
    hub, type_ = library(), repository.type
    url = api.create_repo(repo, repo_type=type_, private=not public, exist_ok=True)
    before = api.repo_info(repo, repo_type=type_)
    new = {file.name for file in repository.files}
    gone = _earlier_files(api, repo, type_, before) - new
    operations = [
        *(hub.CommitOperationAdd(file.name, _content(file)) for file in repository.files),
        *(hub.CommitOperationDelete(name) for name in sorted(gone)),
    ]
    names = "model" if type_ == "model" else ", ".join(repository.tables)
    made = api.create_commit(
        repo,
        operations,
        commit_message=f"Push {names} with prefine",
        repo_type=type_,
        parent_commit=before.sha,
    )
    tree = api.list_repo_tree(repo, recursive=True, repo_type=type_, revision=made.oid)
    kept = {entry.path: entry.size for entry in tree if hasattr(entry, "size")}
    for file in repository.files:
        if kept.get(file.name) != file.size:
            raise BackendError(
                f"{repo}: the hub has not kept {file.name} ({kept.get(file.name)} bytes of "
                f"{file.size}); look for a .gitignore in the repository, and push again"
            )
    return str(url)


def _refuse_public(api: Any, repo: str, type_: str, public: bool) -> None:
    if public or not api.repo_exists(repo, repo_type=type_):
        return
    if not api.repo_info(repo, repo_type=type_).private:
        raise ConfigError(
            f"{repo}: this {type_} repository can be read by everybody; give --public if the run "
            "may be, or make the repository private"
        )


def _earlier_files(api: Any, repo: str, type_: str, info: Any) -> set[str]:
    """The files of an earlier push that are still there."""
    present = {entry.rfilename for entry in info.siblings or ()}
    if RECORD_NAME not in present:
        return set()
    path = api.hf_hub_download(repo, RECORD_NAME, repo_type=type_, revision=info.sha)
    record = read_record(Path(path).read_text(encoding="utf-8"), f"{repo}: {RECORD_NAME}")
    return set(record["files"]) & present


def _content(file: Published) -> str | bytes:
    return str(file.content) if isinstance(file.content, Path) else file.content


def _card(repository: Repository) -> Published:
    return next(file for file in repository.files if file.name == _CARD)


def _with_card(
    repository: Repository,
    config: RunConfig,
    data: ReportData,
    licences: Licences,
    *,
    repo: str,
    base: str | None,
) -> list[Published]:
    others = [file for file in repository.files if file.name != _CARD]
    if repository.type == "model":
        own = [file for file in repository.files if file.name == _CARD]
        text = own[0].read().decode("utf-8", "surrogateescape") if own else f"# {repo}\n"
        card = model_repository_card(text, data, licences, base)
    else:
        rows = {name: _rows(config.run_dir / name) for name in repository.tables}
        card = dataset_repository_card(config, data, licences, repo=repo, rows=rows)
    return [Published(_CARD, card.encode("utf-8", "surrogateescape")), *others]


def _rows(folder: Path) -> int:
    ids = "prefine_prompt_id"
    return sum(len(column(part, ids)) for part in existing_parts(folder))


def _check_ended(run: Path, config: RunConfig, what: Sequence[What]) -> None:
    manifests = read_manifests(run)
    stages = {"model": ("train",), "pairs": ("pair", *(("bridge",) if config.bridge else ()))}
    for name in what:
        for stage in stages.get(name, ()):
            made = manifests.get(stage)
            if made is None or not made.complete:
                raise ConfigError(
                    f"{run}: stage {stage} has not ended, so there is nothing whole to publish; "
                    f"run `prefine {stage} {run}` first"
                )


def _remember_keys(value: Any) -> None:
    """Read the keys that the configuration names at any depth, so that they are found in files."""
    if isinstance(value, list | tuple):
        for one in value:
            _remember_keys(one)
    if not isinstance(value, Mapping):
        return
    for name, one in value.items():
        if name == "headers_env" and isinstance(one, Mapping):
            _read_keys(one.values())
        elif name == "api_key_env" and one:
            _read_keys([one])
        else:
            _remember_keys(one)


def _read_keys(names: Iterable[Any]) -> None:
    for name in names:
        with suppress(ConfigError):  # a key that is not set cannot be found
            read_secret(str(name))


def _base_path(config: RunConfig) -> str | None:
    """The folder or hub id of the model that all training began with."""
    policy = config.policy if config.lineage is None else config.lineage.initial
    path = policy.options.get("path")
    return path if isinstance(path, str) else None


def _base_on_hub(run: Path, path: str | None) -> str | None:
    """The base model's id, by its place in the hub's cache or by the card of the training.

    A folder that is not here any more looks like an id; when the card was written, it was there.
    """
    if path is None:
        return None
    card = card_of(str(run / "model"), "model")
    named = None if card is None else header_of(card).get("base_model")
    return hub_id_in_cache(path) or (path if named == path else None)


def _licences(
    config: RunConfig, base: str | None, base_path: str | None, stated: str | None
) -> Licences:
    """The licences that the cards of base model and data state, and what the user says."""
    sources = [*config.items_entries.values(), config.prompts, config.completions]
    places = [
        str(source.options["path"])
        for source in sources
        if source is not None and source.name in ("hub", "file") and "path" in source.options
    ]
    of_data = {_licence(place, "dataset") for place in places}
    return Licences(
        base=_licence(base_path, "model") or _licence(base, "model"),
        data=next(iter(of_data)) if len(of_data) == 1 else None,
        stated=stated,
    )


def _licence(place: str | None, type_: str) -> str | None:
    card = None if place is None else card_of(place, type_)
    return None if card is None else stated_licence(card)
