"""Which folders are which packages; everything else stands in pyproject.toml.

`hnet` lies at the root, `hnet_kernels` and `hnet_launch` one level down (docs/architecture.md says why), and the YAML
files of `configs/` travel in a wheel as the data-only package `hnet_configs`. With HNET_BUILD_CUDA=1 the CUDA C++
kernels are compiled too, which needs nvcc and makes the wheel one of this platform.
"""

import os
import runpy
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

BUILD_CUDA = os.environ.get("HNET_BUILD_CUDA") == "1"


class BuildWithCuda(build_py):
    """Puts the compiled kernels beside the Python code: in the wheel, or in the checkout for an editable install."""

    def run(self) -> None:
        super().run()
        if BUILD_CUDA:
            # Run by path: importing hnet_kernels needs torch, which need not be installed yet.
            tool = runpy.run_path("kernels/hnet_kernels/tools/build_cuda.py")
            folder = Path("kernels/hnet_kernels" if self.editable_mode else f"{self.build_lib}/hnet_kernels")
            print(tool["build"](folder / "lib" / tool["LIBRARY"].name))


class PlatformDistribution(Distribution):
    """A wheel with machine code in it names its platform."""

    def has_ext_modules(self) -> bool:
        return BUILD_CUDA or super().has_ext_modules()


CONFIG_FOLDERS = ["clusters", "engine", "models", "runs"]

setup(
    cmdclass={"build_py": BuildWithCuda},
    distclass=PlatformDistribution,
    packages=[
        *find_packages(include=["hnet", "hnet.*"]),
        *find_packages("kernels", include=["hnet_kernels", "hnet_kernels.*"]),
        *find_packages("launch", include=["hnet_launch", "hnet_launch.*"]),
        "hnet_configs",
        *(f"hnet_configs.{folder}" for folder in CONFIG_FOLDERS),
    ],
    package_dir={
        "hnet": "hnet",
        "hnet_kernels": "kernels/hnet_kernels",
        "hnet_launch": "launch/hnet_launch",
        "hnet_configs": "configs",
    },
    package_data={
        "hnet": ["py.typed", "data/sample/*", "inspect/*.html", "segmentation/*.txt"],
        "hnet_kernels": ["py.typed", "*/README.md"],
        "hnet_launch": ["py.typed"],
        "hnet_configs": ["*.yaml"],
        **{f"hnet_configs.{folder}": ["*.yaml"] for folder in CONFIG_FOLDERS},
    },
)
