"""The newest JPEG XL and AVIF for holo_benchmark_codec, from the wheel of PyPI's imagecodecs.

    newest_peers.py setup ENVIRONMENT (jxl | avif)      once: a virtual environment; prints the library's version
    newest_peers.py encode (jxl | avif) SETTING IN.ppm OUT
    newest_peers.py decode (jxl | avif) IN OUT.ppm

The last two run in the environment's Python. SETTING is a distance (jxl, effort 7) or a quality (avif, 4:2:0, aom,
speed 6). One thread each.
"""

import os
import subprocess
import sys
import venv

PACKAGE = "imagecodecs==2026.3.6"


def setup(environment, codec):
    python = os.path.join(environment, "bin", "python")
    ready = os.path.join(environment, "ready-" + PACKAGE)
    name = {"jxl": "jpegxl", "avif": "avif"}[codec]
    try:
        if not os.path.exists(ready):
            venv.create(environment, with_pip=True, clear=True)
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]
            subprocess.run(install, check=True, capture_output=True)
            open(ready, "w").close()
        subprocess.run([python, "-c", f"import imagecodecs; print(imagecodecs.{name}_version())"], check=True)
    except (subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"{PACKAGE} could not be installed into {environment}: {error}")


def read_ppm(path):
    import numpy

    with open(path, "rb") as file:
        # As the benchmark writes it: three lines of header.
        assert file.readline() == b"P6\n"
        width, height = map(int, file.readline().split())
        assert file.readline() == b"255\n"
        return numpy.frombuffer(file.read(), numpy.uint8).reshape(height, width, 3)


def encode(codec, setting, source, target):
    import imagecodecs

    picture = read_ppm(source)
    if codec == "jxl":
        code = imagecodecs.jpegxl_encode(picture, distance=float(setting), effort=7, numthreads=1)
    else:
        code = imagecodecs.avif_encode(
            picture, level=int(setting), speed=6, pixelformat="420", codec="aom", numthreads=1
        )
    with open(target, "wb") as file:
        file.write(code)


def decode(codec, source, target):
    import imagecodecs

    with open(source, "rb") as file:
        code = file.read()
    picture = imagecodecs.jpegxl_decode(code) if codec == "jxl" else imagecodecs.avif_decode(code)
    height, width, channels = picture.shape
    assert channels == 3 and picture.dtype == "uint8"
    with open(target, "wb") as file:
        file.write(b"P6\n%d %d\n255\n" % (width, height) + picture.tobytes())


def main():
    commands = {"setup": (setup, 2), "encode": (encode, 4), "decode": (decode, 3)}
    command, count = commands.get(sys.argv[1] if len(sys.argv) > 1 else "", (None, 0))
    if command is None or len(sys.argv) != 2 + count:
        sys.exit(__doc__)
    command(*sys.argv[2:])


if __name__ == "__main__":
    main()
