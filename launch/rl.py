"""`python -m launch.rl CONFIG.toml [--section.key value ...] [--dry-run] [--resume auto|never]`: staged GRPO.

On one machine this starts Ray in-process; under `ray job submit` the same command joins the cluster it is in.
"""

from __future__ import annotations

from collections.abc import Sequence

from launch.cli import Flag, load_config, main
from rl.config import RunConfig

FLAGS = (
    Flag(
        name="dry-run", doc="Validate everything, print the resolved configuration and the stage plan, start nothing."
    ),
    Flag(
        name="resume",
        choices=("auto", "never"),
        doc="auto: go on from run.dir's newest valid checkpoint, or start where there is none; "
        "never: refuse a run.dir that already holds a run.",
    ),
)


def run(argv: Sequence[str]) -> int:
    """Validate, then train; returns the exit code."""
    command = load_config(RunConfig, argv, prog="python -m launch.rl", flags=FLAGS)
    from rl.inputs import load_inputs

    inputs = load_inputs(command.config)
    if command.is_on("dry-run"):
        from rl.plan import describe_plan
        from rl.run_folder import config_toml

        print(config_toml(command.config.model_dump()))
        print(describe_plan(inputs, command.config))
        return 0
    from rl.run import open_run
    from rl.train import train

    with open_run(command.config, inputs, resume=command.values["resume"] == "auto") as opened:
        train(opened)
        opened.finish()
    print(f"done: {command.config.run.dir}; see it with: python -m launch.report {command.config.run.dir}")
    return 0


if __name__ == "__main__":
    main(run)
