"""What setup.cfg cannot say: an extension that is left out without a C compiler. See separator/dsp/stereo.py."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "separator.dsp._stereo",
            ["separator/dsp/stereo.c"],
            depends=["setup.py"],
            extra_compile_args=["-O3", "-fopenmp-simd", "-fno-trapping-math"],
            optional=True,
        )
    ]
)
