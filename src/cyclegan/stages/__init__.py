"""The stages of `dvc.yaml`, which combine data, training, tracking and registry."""
