"""A real Slurm on the hosts of a bed: munged and slurmctld on the first one, slurmd on each."""

import secrets

from tests.launch.hosts.bed import Hosts, wait_until

_CONFIG = """
ClusterName=bed
SlurmctldHost={first}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
PropagateResourceLimits=NONE
MinJobAge=3600
KillWait=30
"""


def slurm(hosts: Hosts) -> dict[str, str]:
    """Start the daemons and wait until every host is idle; returns the variables that Slurm's commands need."""
    folder = hosts.folder / "slurm"
    (folder / "state").mkdir(parents=True)
    nodes = [f"NodeName={host.name} NodeAddr={host.address} CPUs=2 RealMemory=2000 State=UNKNOWN" for host in hosts]
    partition = (
        f"PartitionName=main Nodes={','.join(host.name for host in hosts)} Default=YES MaxTime=INFINITE State=UP"
    )
    first = hosts[0]
    head = _CONFIG.format(first=first.name, address=first.address, folder=folder)
    (folder / "slurm.conf").write_text("\n".join([head, *nodes, partition, ""]))
    # Slurm looks for the second version of cgroups unless told, and the machine may have the first.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o600)
    munge = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    first.run(["munged", "--force", *(f"--{option}={folder}/munge.{name}" for option, name in munge.items())])
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}
    first.run(["slurmctld"], **variables)
    for host in hosts:
        (folder / f"spool-{host.name}").mkdir()
        host.run(["slurmd", "-N", host.name], **variables)

    def all_idle() -> bool:
        return first.run(["sinfo", "--noheader", "--Node", "--format=%T"], **variables).split() == ["idle"] * len(hosts)

    wait_until(all_idle, 60, "slurmd on every host")
    return variables
