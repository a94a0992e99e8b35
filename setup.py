"""What pyproject.toml cannot say of the package: commands stay with the benchmark's driver."""

from setuptools import setup
from setuptools.command.build_py import build_py


class WithoutCommands(build_py):
    """Leaves `__main__` modules out, such as that of `python -m engine.scores`.

    They import the driver, which is no part of the package.
    """

    def find_package_modules(self, package: str, folder: str) -> list[tuple[str, str, str]]:
        modules = super().find_package_modules(package, folder)
        return [module for module in modules if module[1] != "__main__"]


setup(cmdclass={"build_py": WithoutCommands})
