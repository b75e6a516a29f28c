"""Which folders are which packages; everything else stands in pyproject.toml.

`hnet` lies at the root, `hnet_kernels` and `hnet_launch` one level down (docs/architecture.md says why), and the YAML
files of `configs/` travel in a wheel as the data-only package `hnet_configs`.
"""

from setuptools import find_packages, setup

CONFIG_FOLDERS = ["models", "runs"]

setup(
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
        "hnet": ["py.typed", "data/sample/*", "inspect/*.html"],
        "hnet_kernels": ["py.typed", "*/README.md"],
        "hnet_launch": ["py.typed"],
        "hnet_configs": ["*.yaml"],
        **{f"hnet_configs.{folder}": ["*.yaml"] for folder in CONFIG_FOLDERS},
    },
)
