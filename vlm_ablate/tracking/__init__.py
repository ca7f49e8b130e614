"""What a run leaves behind: an MLflow store, written while runs train and read back for tables."""
