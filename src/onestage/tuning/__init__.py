"""The search for settings that train better than the rules: many short trainings of one data set, by Optuna."""
