"""Options that mean something in one way of launching only. Elsewhere they would be passed over in silence."""

import argparse

from hnet.errors import ConfigError

_BELONG_TO = {
    "--hostfile": ("node_rank", "master_addr"),
    "--torchrun": ("rdzv_endpoint", "nnodes"),
    "--slurm": ("partition", "account", "time", "sbatch_arg"),
    "--srun": ("requeue",),
    "--kubernetes": ("image", "namespace", "volume", "secret", "manifest", "apply"),
}


def check_modes(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for an option whose mode is not the one that is asked for."""
    modes = {mode for mode in _BELONG_TO if getattr(arguments, mode.removeprefix("--"))}
    # A cluster's file may name hosts, too.
    modes |= {"--hostfile"} if arguments.cluster and not modes else set()
    for mode, names in _BELONG_TO.items():
        for name in names:
            given = getattr(arguments, name)
            if mode not in modes and given is not None and given is not False and given != []:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} means nothing without {mode}; add that, or leave {option} out")
