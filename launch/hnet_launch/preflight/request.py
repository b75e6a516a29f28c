"""What the launcher asks of a node, one word on a command line, and what the node answers, a few lines of output."""

import base64
import re

from pydantic import Field

from hnet.config.base import Config
from hnet.data.config import SourceConfig

_MARK = "hnet-preflight-report:"
_PIECE = 400
"""Characters."""


class Request(Config):
    """The same for every node, which learns its own number from the command line or from Slurm."""

    token: str
    """Names this preflight among all that ever run in the same folder."""
    num_nodes: int
    host: str
    """Address of the first node, as the job will use it."""
    port: int | None
    """Where the first node listens; None: nodes do not meet."""
    output_dir: str
    sources: tuple[SourceConfig, ...] = ()
    patience: float = 60.0
    """Seconds that nodes wait for each other."""

    def encode(self) -> str:
        """One word that no shell and no launcher changes."""
        return base64.urlsafe_b64encode(self.model_dump_json().encode()).decode()

    @classmethod
    def decode(cls, word: str) -> "Request":
        return cls.model_validate_json(base64.urlsafe_b64decode(word))


class GpuReport(Config):
    """One GPU as nvidia-smi sees it; texts are as it prints them."""

    name: str
    driver: str
    uncorrected_errors: str
    pending_repair: str
    memory_used_mib: str


class NodeReport(Config):
    """What one node found out about itself and its way to the others."""

    node: int
    host_name: str
    versions: dict[str, str]
    """Of Python, the packages that matter, and the code of hnet itself (a checksum)."""
    connection_error: str | None = None
    clock_seconds: float | None = None
    """This node's clock less the first node's; None without a connection."""
    clock_uncertainty: float = 0.0
    folder_error: str | None = None
    free_bytes: int = 0
    seen: tuple[int, ...] = ()
    """Nodes whose file in the output folder this node sees."""
    sources: dict[str, str] = Field(default_factory=dict)
    """What each data source holds, in words that are equal where the data is."""
    source_errors: dict[str, str] = Field(default_factory=dict)
    gpus: tuple[GpuReport, ...] = ()
    xids: tuple[str, ...] = ()
    """Lines of the kernel's log about failures of a GPU's hardware since the machine was started."""
    gpu_error: str | None = None
    """Why GPUs could not be looked at, where there seem to be some."""

    def lines(self) -> list[str]:
        """The report as lines of output, which may stand among others; short, as srun breaks long ones."""
        word = base64.urlsafe_b64encode(self.model_dump_json().encode()).decode()
        pieces = [word[i : i + _PIECE] for i in range(0, len(word), _PIECE)]
        return [f"{_MARK}{i}/{len(pieces)}:{piece}" for i, piece in enumerate(pieces, 1)]


def find_report(output: str) -> NodeReport | None:
    """The report among what a node's command has printed; None if it printed none, or not all of it."""
    found = re.findall(rf"{_MARK}(\d+)/(\d+):(\S+)", output)
    if not found or len(found) != int(found[0][1]):
        return None
    word = "".join(piece for _, _, piece in sorted(found, key=lambda part: int(part[0])))
    return NodeReport.model_validate_json(base64.urlsafe_b64decode(word))
