"""Lists the packages: pyproject.toml cannot say that the folder configs/ is installed inside jaxcnn."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["jaxcnn*"]), "jaxcnn.configs", "jaxcnn.configs.comparisons"],
    package_dir={"jaxcnn.configs": "configs"},
)
