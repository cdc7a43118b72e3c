"""Named suites, a TOML file each; `launch.eval_suites.SuiteFile` says what one holds."""
