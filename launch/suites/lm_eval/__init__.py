"""The named suites as tasks of lm-evaluation-harness: `--include_path` takes this folder."""
