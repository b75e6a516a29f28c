"""`ClusterConfig`: the machines of a job, and how fast they talk. The launcher and the planner read the same file."""

import re
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from hnet.config.base import Config

HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:-]*[A-Za-z0-9])?")
"""What ssh, pdsh and a hostfile take as a host: a name or an address, without user, port or brackets."""

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


class ClusterConfig(Config):
    """Equal nodes with equal accelerators: every launcher numbers local ranks by that."""

    config_folder: ClassVar[str | None] = "clusters"

    nodes: PositiveInt = 1
    gpus_per_node: PositiveInt = 1
    """Accelerators, and therefore ranks, of each node; on nodes without any, the processes to start."""
    gpu: str = "H100"
    """Name of the accelerator in the planner's table, or `cpu`."""
    intra_node_gb_per_s: PositiveFloat = 450.0
    """GB/s (1e9 bytes) that one GPU sends to another of its node: NVLink of an H100, one direction."""
    inter_node_gb_per_s: PositiveFloat = 50.0
    """GB/s (1e9 bytes) that one GPU sends to one of another node: a 400 Gbit/s adapter per GPU, one direction."""
    hosts: tuple[str, ...] = ()
    """Names by which the nodes reach each other; empty where a scheduler gives them."""

    @property
    def world_size(self) -> int:
        """Ranks of the whole job."""
        return self.nodes * self.gpus_per_node

    @model_validator(mode="after")
    def _hosts_are_nodes(self) -> "ClusterConfig":
        if self.hosts and len(self.hosts) != self.nodes:
            raise ValueError(f"hosts names {len(self.hosts)} machines, but nodes is {self.nodes}; give both alike")
        seen: set[str] = set()
        for host in self.hosts:
            if not HOST_NAME.fullmatch(host):
                raise ValueError(f"hosts: '{host}' is not the name or address of a host")
            if host in seen:
                raise ValueError(f"hosts: '{host}' is named twice; give each host once")
            seen.add(host)
        return self
