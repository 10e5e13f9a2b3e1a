"""What shapes a training: its data, its parameters, and the code that the weights depend on.

The key of a run names its folder of checkpoints. A training resumes only a checkpoint of the same key.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cyclegan
from cyclegan.params import Params
from cyclegan.project import Project
from cyclegan.system.digests import code_digest, file_digest, folder_digest, run_key

if TYPE_CHECKING:
    from cyclegan.evaluation.features import FeatureNetwork

# The code on which trained weights depend, and the choice among evaluations. A folder stands for the files directly in
# it. dvc.yaml lists the same code for the stages `search` and `train`. The values of parameters are in the key by
# themselves; code that only reads, reports or records is not listed.
TRAINING_CODE = (
    "data/loading",
    "domains.py",
    "evaluation",
    "experiment/networks.py",
    "experiment/plan.py",
    "experiment/session.py",
    "experiment/validation.py",
    "metric_names.py",
    "models",
    "params/derived.py",
    "training",
)
# What the value of a trial depends on in addition.
SEARCH_CODE = ("search/space.py",)


def training_shape(params: Params, data: str, features: FeatureNetwork) -> dict[str, Any]:
    """Everything on which the trained weights depend; a checkpoint made with anything else is not resumed.

    Args:
        data: digest of the packed data.
        features: by whose metrics the generators are chosen.
    """
    return {
        "data": data,
        **params.shaping,
        "features": [features.name, features.sha256],
        "code": {part: code_digest(_package() / part) for part in TRAINING_CODE},
        **{name: version(name) for name in ("keras", "tensorflow", "numpy")},
    }


def study_key(project: Project, params: Params, data: str) -> str:
    """Short digest of all that a trial's value depends on beside its hyperparameters and `search.*`.

    Args:
        data: `packed_data_digest`.
    """
    features = file_digest(project.root / params.evaluate.features)
    return run_key(
        {
            "data": data,
            **params.shaping,
            # By whose metrics trials are compared, or their generators chosen.
            "features": [features, params.evaluate.features_size],
            "code": code_digest(*(_package() / part for part in (*TRAINING_CODE, *SEARCH_CODE))),
        }
    )


def packed_data_digest(project: Project) -> str:
    """Digest of the packed data, which is opened and read in full.

    Raises:
        UserError: there is none yet, or it is corrupt.
    """
    from cyclegan.data.loading.dataset import PackedDataset

    PackedDataset.open(project.split)
    return folder_digest(project.split)


def _package() -> Path:
    return Path(cyclegan.__file__).parent
