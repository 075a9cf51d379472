#!/usr/bin/env python3
"""The holo program on files: local.py --holo PATH"""

import argparse
import json
import os
import resource
import signal
import subprocess
import time

from harness import check, main, read, run, write_noise_ppm, write_ppm


def a_picture_goes_there_and_back(folder, a):
    write_ppm(f"{folder}/p.ppm", 301, 203, 1)
    run(a.holo, "compress", f"{folder}/p.ppm", "-q")
    info = json.loads(run(a.holo, "info", f"{folder}/p.holo", "--json").stdout)
    check(info["layout"]["width"] == 301 and info["layout"]["height"] == 203, f"unexpected size in {info}")
    check(info["bytes"] == os.path.getsize(f"{folder}/p.holo"), "info gives another size than the file has")
    check(info["smoothing"] == 36 / 64, f"unexpected smoothing in {info}")
    for arguments, size in (([], (301, 203)), (["--scale", "1/4"], (76, 51)), (["--scale", "0.3"], (90, 61)),
                            (["--scale", "2x"], (602, 406)), (["--region", "10,20,100,50", "-k", "12"], (100, 50))):
        done = run(a.holo, "render", f"{folder}/p.holo", f"{folder}/out.ppm", "--json", *arguments)
        result = json.loads(done.stdout)
        check((result["width"], result["height"]) == size, f"{arguments}: expected {size}, found {result}")
        check(read(f"{folder}/out.ppm").startswith(b"P6\n%d %d\n" % size), f"{arguments}: the file has another size")


def every_prefix_renders(folder, a):
    write_ppm(f"{folder}/p.ppm", 300, 200, 2)
    run(a.holo, "compress", f"{folder}/p.ppm", "-q")
    size = os.path.getsize(f"{folder}/p.holo")
    rendered = set()
    for part in (0.1, 0.2, 0.4, 0.6, 0.8, 0.95, 1):
        run(a.holo, "render", f"{folder}/p.holo", f"{folder}/out.ppm", "--bytes", int(size * part))
        rendered.add(read(f"{folder}/out.ppm"))
        # A file that really ends there shows the same.
        with open(f"{folder}/cut.holo", "wb") as file:
            file.write(read(f"{folder}/p.holo")[:int(size * part)])
        run(a.holo, "render", f"{folder}/cut.holo", f"{folder}/cut.ppm")
        check(read(f"{folder}/cut.ppm") == read(f"{folder}/out.ppm"), f"{part}: --bytes and a cut file differ")
    check(len(rendered) >= 6, f"expected more bytes to show more, found {len(rendered)} different pictures")


def the_plain_profile_works_in_all_commands(folder, a):
    write_ppm(f"{folder}/p.ppm", 64, 48, 3)
    run(a.holo, "compress", f"{folder}/p.ppm", "--profile", "plain", "-k", "30", "-o", f"{folder}/q.holo")
    info = json.loads(run(a.holo, "info", f"{folder}/q.holo", "--json").stdout)
    check(info["payload_bytes"] == 2 * (192 * 31 + 48 * 30), f"unexpected payload in {info}")
    rendered = json.loads(run(a.holo, "render", f"{folder}/q.holo", f"{folder}/q.png", "--json").stdout)
    check((rendered["width"], rendered["height"]) == (64, 48), f"unexpected size in {rendered}")


def nothing_is_overwritten_without_being_asked(folder, a):
    write_ppm(f"{folder}/p.ppm", 32, 32, 4)
    with open(f"{folder}/p.holo", "w") as file:
        file.write("mine")
    run(a.holo, "compress", f"{folder}/p.ppm", expect=2)
    check(read(f"{folder}/p.holo") == b"mine", "the file was replaced")
    run(a.holo, "compress", f"{folder}/p.ppm", "-f", "-q")
    check(read(f"{folder}/p.holo") != b"mine", "-f did not replace the file")


def exit_codes_say_what_went_wrong(folder, a):
    write_ppm(f"{folder}/p.ppm", 32, 32, 5)
    run(a.holo, "compress", f"{folder}/p.ppm", "-q")
    with open(f"{folder}/text.png", "w") as file:
        file.write("no picture")
    damaged = bytearray(read(f"{folder}/p.holo"))
    damaged[10] ^= 0xFF
    with open(f"{folder}/damaged.holo", "wb") as file:
        file.write(damaged)
    for code, arguments in ((2, []), (2, ["nonsense"]), (2, ["compress"]), (2, ["compress", f"{folder}/p.ppm", "-f", "--variance", "nan"]),
                            (3, ["compress", f"{folder}/p.ppm", "-o", f"{folder}/none/p.holo"]), (2, ["compress", f"{folder}/text.png"]),
                            (3, ["compress", f"{folder}/none.png"]), (3, ["info", f"{folder}/none.holo"]),
                            (5, ["info", f"{folder}/damaged.holo"]), (5, ["render", f"{folder}/p.ppm", f"{folder}/o.png"]),
                            (2, ["render", f"{folder}/p.holo", f"{folder}/o.xyz"]),
                            (2, ["render", f"{folder}/p.holo", f"{folder}/o.png", "--region", "30,30,9,9"]),
                            (2, ["fetch", "http://localhost", "x", "-o", f"{folder}/o.png"]),
                            (4, ["fetch", "ws://127.0.0.1:1", "x", "-o", f"{folder}/o.png"]),
                            (4, ["fetch", "grpc://127.0.0.1:1", "x", "-o", f"{folder}/o.png", "--timeout", "5"]),
                            (0, ["--help"]), (0, ["--version"])):
        done = run(a.holo, *arguments, expect=code)
        check(code == 0 or b"\n" in done.stderr, f"{arguments}: expected a message")
    check(not os.path.exists(f"{folder}/o.png"), "a failed command left its output")
    names = "compress info render view df basis fetch watch".split()
    for name in names:
        check(b"xample" in run(a.holo, name, "--help").stdout, f"{name} --help has no example")


def without_a_display_the_window_says_what_to_do(folder, a):
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    for arguments in (["view", "x.holo"], ["watch", "ws://127.0.0.1:1", "x"]):
        done = run(a.holo, *arguments, expect=2, env=environment)
        check(b"out.png" in done.stderr, f"expected advice, found {done.stderr}")
        done = run(a.holo, *arguments, expect=2, env=environment | {"DISPLAY": ":47110"})
        check(b":47110" in done.stderr, f"expected the display that does not answer, found {done.stderr}")


def interrupting_leaves_nothing_behind(folder, a):
    write_noise_ppm(f"{folder}/p.ppm", 3000, 2000)
    process = subprocess.Popen([a.holo, "compress", f"{folder}/p.ppm", "--quality", "95"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)

    def catches_interrupts():
        caught = next(line for line in read(f"/proc/{process.pid}/status").splitlines() if line.startswith(b"SigCgt:"))
        return int(caught.split()[1], 16) >> (signal.SIGINT - 1) & 1

    while process.poll() is None and not catches_interrupts():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    check(process.wait(timeout=60) == 130, f"expected exit code 130, found {process.returncode}")
    check(os.listdir(folder) == ["p.ppm"], f"expected nothing but the picture, found {os.listdir(folder)}")


def a_full_disk_leaves_the_old_file(folder, a):
    write_noise_ppm(f"{folder}/p.ppm", 400, 400)
    with open(f"{folder}/p.holo", "w") as file:
        file.write("old")

    def limit_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = run(a.holo, "compress", f"{folder}/p.ppm", "-f", expect=None, preexec_fn=limit_files)
    check(done.returncode != 0 and b"p.holo" in done.stderr, f"expected an error with the path, found {done.stderr}")
    check(read(f"{folder}/p.holo") == b"old", "the old file is gone")
    check(sorted(os.listdir(folder)) == ["p.holo", "p.ppm"], f"expected no other files, found {os.listdir(folder)}")


def a_shared_basis_is_found_beside_the_file(folder, a):
    for i in range(3):
        write_ppm(f"{folder}/{i}.ppm", 128, 96, i)
    run(a.holo, "basis", "train", f"{folder}/0.ppm", f"{folder}/1.ppm", "-o", f"{folder}/my.basis")
    run(a.holo, "compress", f"{folder}/2.ppm", "--basis", f"{folder}/my.basis", "-q")
    trained = json.loads(run(a.holo, "basis", "info", f"{folder}/my.basis", "--json").stdout)
    info = json.loads(run(a.holo, "info", f"{folder}/2.holo", "--json").stdout)
    check(info["bases"][0]["hash"] == trained["hash"], f"expected the trained basis in {info}")
    run(a.holo, "render", f"{folder}/2.holo", f"{folder}/2.png")
    os.rename(f"{folder}/my.basis", f"{folder}/elsewhere")
    run(a.holo, "render", f"{folder}/2.holo", f"{folder}/2.png", expect=3)
    run(a.holo, "render", f"{folder}/2.holo", f"{folder}/2.png", "--basis", f"{folder}/elsewhere")


def df_measures_pictures_and_matrices(folder, a):
    write_ppm(f"{folder}/p.ppm", 64, 64, 6)
    with open(f"{folder}/m.csv", "w") as file:
        file.write("a,b,c\n" + "".join(f"{s if i == 0 else 0},{s if i == 1 else 0},{s if i == 2 else 0}\n"
                                       for i in range(3) for s in (-1, 1)))
    matrix = json.loads(run(a.holo, "df", f"{folder}/m.csv", "--json").stdout)
    check(abs(matrix["df"] - 3) < 1e-9 and abs(matrix["shannon_rank"] - 3) < 1e-9, f"expected rank 3, found {matrix}")
    run(a.holo, "df", f"{folder}/p.ppm", "--plot", f"{folder}/s.svg", "-q")
    run(a.holo, "df", f"{folder}/p.ppm", "--plot", f"{folder}/s.png", "-q")
    check(read(f"{folder}/s.svg").startswith(b"<svg") and read(f"{folder}/s.png").startswith(b"\x89PNG"), "no plots")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--holo", required=True)
    main([a_picture_goes_there_and_back, every_prefix_renders, the_plain_profile_works_in_all_commands,
          nothing_is_overwritten_without_being_asked, exit_codes_say_what_went_wrong,
          without_a_display_the_window_says_what_to_do, interrupting_leaves_nothing_behind,
          a_full_disk_leaves_the_old_file, a_shared_basis_is_found_beside_the_file, df_measures_pictures_and_matrices],
         parser.parse_args())
