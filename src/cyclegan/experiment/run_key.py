"""Everything that shapes trained weights: data, parameters and code.

Its digest, the run key, names the folder of a training's checkpoints. A training resumes only checkpoints of its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cyclegan
from cyclegan.experiment.initial_networks import InitialNetwork, find_initial_networks
from cyclegan.params import Params
from cyclegan.project import Project
from cyclegan.system.digests import code_digest, file_digest, folder_digest, run_key

if TYPE_CHECKING:
    from cyclegan.evaluation.features import FeatureNetwork

# The code on which trained weights and the selection among evaluations depend. A folder means the files directly in it.
# dvc.yaml lists the same code for the stages `search` and `train`. Code that only reads, reports or logs is not listed.
TRAINING_CODE = (
    "data/loading",
    "domains.py",
    "evaluation",
    "experiment/initial_networks.py",
    "experiment/networks.py",
    "experiment/plan.py",
    "experiment/session.py",
    "experiment/validation.py",
    "metric_names.py",
    "models",
    "params/derived.py",
    "training",
)
# Further code on which the value of a trial depends.
SEARCH_CODE = ("search/space.py",)


def training_shape(
    params: Params, data: str, features: FeatureNetwork, initial: Mapping[str, InitialNetwork]
) -> dict[str, Any]:
    """Everything that shapes the trained weights.

    Args:
        data: digest of the packed data.
        features: the network whose metrics select the generators.
        initial: networks that give the training its weights, by name.
    """
    return {
        "data": data,
        **params.shaping,
        "features": [features.name, features.sha256],
        "initial": _checksums(initial),
        "code": {part: code_digest(_package() / part) for part in TRAINING_CODE},
        "keras": version("keras"),
        "tensorflow": _tensorflow_version(),
        "numpy": version("numpy"),
    }


def _tensorflow_version() -> str:
    """The version of TensorFlow; the container image for CPUs has it under another name."""
    try:
        return version("tensorflow")
    except PackageNotFoundError:
        return version("tensorflow-cpu")


def study_key(project: Project, params: Params, data: str) -> str:
    """Short digest of everything that determines a trial's value, except its hyperparameters and `search.*`.

    Args:
        data: the result of `packed_data_digest`.
    """
    features = file_digest(project.root / params.evaluate.features)
    return run_key(
        {
            "data": data,
            **params.shaping,
            # Metrics of this network compare trials and select their generators.
            "features": [features, params.evaluate.features_size],
            "initial": _checksums(find_initial_networks(project, params)),
            "code": code_digest(*(_package() / part for part in (*TRAINING_CODE, *SEARCH_CODE))),
        }
    )


def packed_data_digest(project: Project) -> str:
    """Digest of the packed data. Reads all of it.

    Raises:
        UserError: the data is missing or corrupt.
    """
    from cyclegan.data.loading.dataset import PackedDataset

    PackedDataset.open(project.split)
    return folder_digest(project.split)


def _checksums(initial: Mapping[str, InitialNetwork]) -> dict[str, str]:
    return {name: network.sha256 for name, network in initial.items()}


def _package() -> Path:
    return Path(cyclegan.__file__).parent
