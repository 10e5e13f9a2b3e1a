"""Protection against two data sets under one name, that is, in one experiment and one registered model."""

from __future__ import annotations

from cyclegan.data.loading.dataset import PackedDataset
from cyclegan.params import Params
from cyclegan.system.errors import UserError
from cyclegan.tracking.store import Store, search_all
from cyclegan.tracking.store_errors import require_store


def data_tags(params: Params, dataset: PackedDataset) -> dict[str, str]:
    """MLflow tags with the name of the data and the digest of its images."""
    return {"data.name": params.data.dataset, "data.images": dataset.images_digest}


def refuse_other_images(store: Store, params: Params, dataset: PackedDataset) -> None:
    """Refuse a name that the project derived from folders or a file if earlier runs used it for other images only.

    A name set in `data.name` is accepted: the user knows that these images continue the others.

    Raises:
        UserError: the name belongs to other images.
    """
    data = params.data
    if data.name is not None or not (data.source == "folders" or data.source.startswith(("file:", "https:"))):
        return
    with require_store(store):
        experiments = [experiment.experiment_id for experiment in search_all(store.client.search_experiments)]
        has_name = f"tags.`data.name` = '{data.dataset}'"
        runs = store.client.search_runs(experiments, f"{has_name} AND tags.`data.images` != ''", max_results=1)
        has_images = f"{has_name} AND tags.`data.images` = '{dataset.images_digest}'"
        if not runs or store.client.search_runs(experiments, has_images, max_results=1):
            return
    raise UserError(
        f"data.name = null: {data.dataset} already names other images (run {runs[0].info.run_name}); "
        f"set data.name: {data.dataset} to continue with these, or another name"
    )
