"""One name, one set of images: what refuses to mix two data sets under one experiment and one registered model."""

from __future__ import annotations

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.params import Params
from cyclegan.system.errors import UserError
from cyclegan.tracking.store import Store, search_all
from cyclegan.tracking.store_errors import require_store


def data_tags(params: Params, dataset: PackedDataset) -> dict[str, str]:
    """The data's name and images, as tags of a run."""
    return {"data.name": params.data.dataset, "data.images": dataset.images_digest}


def refuse_other_images(store: Store, params: Params, dataset: PackedDataset) -> None:
    """Ask for `data.name` where the name follows from folders or a file, and has named other images only.

    Raises:
        UserError: it has. A name that is set says that these images continue the others.
    """
    data = params.data
    if data.name is not None or not (data.source == "folders" or data.source.startswith(("file:", "https:"))):
        return
    with require_store(store):
        experiments = [found.experiment_id for found in search_all(store.client.search_experiments)]
        named = f"tags.`data.name` = '{data.dataset}'"
        other = store.client.search_runs(experiments, f"{named} AND tags.`data.images` != ''", max_results=1)
        same = f"{named} AND tags.`data.images` = '{dataset.images_digest}'"
        if not other or store.client.search_runs(experiments, same, max_results=1):
            return
    raise UserError(
        f"data.name = null: {data.dataset} already names other images (run {other[0].info.run_name}); "
        f"set data.name: {data.dataset} to continue with these, or another name"
    )
