#!/usr/bin/env bash
# What the tests on several hosts need, from the system's packages. Says so and does nothing where it may not.
set -euo pipefail

packages=(iproute2 munge openssh-client openssh-server pdsh slurm-wlm util-linux)
PATH=$PATH:/usr/sbin:/sbin
missing=()
for tool in ip munged nsenter pdsh sbatch scontrol slurmctld slurmd ssh ssh-keygen sshd unshare; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
if ((${#missing[@]} == 0)); then
    exit 0
fi
if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    printf 'tests on hosts: %s not found, and only root can install packages with apt-get; those tests are left out\n' \
        "${missing[*]}"
    exit 0
fi
printf 'tests on hosts: installing %s for %s\n' "${packages[*]}" "${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Only programs are wanted here: no service is started where packages would start theirs.
export RUNLEVEL=1
if ! { apt-get update -qq && apt-get install -qq -y --no-install-recommends "${packages[@]}"; }; then
    printf 'tests on hosts: apt-get failed; what it could not install is left out\n'
fi
