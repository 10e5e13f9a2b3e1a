-- Optuna's tables have names that MLflow uses, too, so a search has its own database.
CREATE DATABASE search;
