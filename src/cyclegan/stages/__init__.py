"""What each stage of `dvc.yaml` does: the place where data, training, tracking and registry meet."""
