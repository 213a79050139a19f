"""What pyproject.toml cannot say: a wheel that is built with FXQUANT_BUILD_KERNELS=1 carries the compiled kernels."""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

WITH_KERNELS = os.environ.get("FXQUANT_BUILD_KERNELS") == "1"


class BuildKernels(build_py):
    """Copy the package, and build a library for each set of instructions into it. This needs torch and a C++ compiler."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)  # what an older build has left would go into the wheel
        super().run()
        if WITH_KERNELS and not self.editable_mode:
            sys.path.insert(0, str(Path(__file__).parent))
            from fxquant.kernels.cpu.libraries import build_all

            build_all(Path(self.build_lib) / "fxquant/kernels/cpu/libraries")


class Wheel(bdist_wheel):
    """Name the platform where there are kernels, but no version of Python: they need none, and no certain torch."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


class Package(Distribution):
    def has_ext_modules(self) -> bool:
        return WITH_KERNELS


setup(distclass=Package, cmdclass={"build_py": BuildKernels, "bdist_wheel": Wheel})
