"""From parameters to the feature network."""

from __future__ import annotations

from cyclegan.evaluation.features import FeatureNetwork, load_features
from cyclegan.params import Params
from cyclegan.project import Project


def feature_network(params: Params, project: Project) -> FeatureNetwork:
    """Load the network that section `evaluate` names.

    Raises:
        UserError: its file is missing or cannot be used.
    """
    options = params.evaluate
    return load_features(project.root / options.features, options.features_size)
