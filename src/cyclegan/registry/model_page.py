"""The description of a registered model in MLflow: its champion, how to load it, and the champion's history."""

from __future__ import annotations

from urllib.parse import quote

from cyclegan.registry.champion import CHAMPION, moves
from cyclegan.registry.model_card import MAX_CHARACTERS
from cyclegan.tracking.store import Store

# The first words of a description of this project. Another one was written by a user, and stays.
OPENING = "Generators "
# Number of moves of the champion in the history, the latest ones.
SHOWN_MOVES = 15


def update_model_page(store: Store, name: str) -> None:
    """Write the description of a registered model. One that a user has written stays."""
    model = store.client.get_registered_model(name)
    if model.description and not model.description.startswith(OPENING):
        return
    champion, challenger = model.aliases.get(CHAMPION), model.aliases.get("challenger")
    uri = f"models:/{name}@{'challenger' if champion is None else CHAMPION}"
    domains, dataset = model.tags.get("domains", "of one domain to the other"), model.tags.get("dataset")
    parts = [
        f"{OPENING}{domains}" + (f", trained on data set {dataset}." if dataset else "."),
        _line(store, name, "Champion", champion),
        *([_line(store, name, "Challenger", challenger)] if challenger not in (None, champion) else []),
        "\n".join(
            [
                "```console",
                f"$ cyclegan translate {uri} IMAGE --output FOLDER",
                f"$ cyclegan serve {uri}",
                "```",
                "",
                f'In Python: `mlflow.pyfunc.load_model("{uri}").predict(images)`.',
            ]
        ),
    ]
    history = moves(store, name)
    if history:
        rows = [
            f"| {made.at[:16].replace('T', ' ')} | {made.before or '–'} → {made.version} | {made.by} | {made.reason} |"
            for made in reversed(history[-SHOWN_MOVES:])
        ]
        parts.append("\n".join(["| UTC | champion | by | why |", "|---|---|---|---|", *rows]))
    text = "\n\n".join(parts)
    while len(text) > MAX_CHARACTERS:
        text = text[: text.rindex("\n")]
    store.client.update_registered_model(name, text)


def version_link(name: str, version: object) -> str:
    """The address of a version's page, relative to MLflow's pages."""
    return f"#/models/{quote(name)}/versions/{version}"


def _line(store: Store, name: str, alias: str, version: object) -> str:
    if version is None:
        return f"{alias}: none."
    reason = store.client.get_model_version(name, str(version)).tags.get("gate.reason")
    return f"{alias}: [version {version}]({version_link(name, version)})" + (f", {reason}." if reason else ".")
