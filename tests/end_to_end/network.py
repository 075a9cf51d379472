#!/usr/bin/env python3
"""Compress, serve, fetch, with the real programs over both transports.

network.py --holo PATH --holod PATH --journey PATH [--all] [--no-memory-limits]

Two Kodak pictures (where $HOLO_TEST_DATA has them) and a synthetic one; --all: all 24 and the 28.7-megapixel panorama.
"""

import argparse
import glob
import json
import os
import socket
import urllib.error
import urllib.request

from harness import CuttingProxy, Server, check, main, peak_memory_mib, read, run, write_ppm

TRANSPORTS = ("ws", "grpc")


def data(*parts):
    return os.path.join(os.environ.get("HOLO_TEST_DATA", ""), *parts)


def make_store(folder, a, pictures=None):
    """Compresses pictures into folder/store; the names of what is there."""
    store = f"{folder}/store"
    os.makedirs(store)
    if pictures is None:
        write_ppm(f"{folder}/synthetic.ppm", 701, 403, 7)
        pictures = [f"{folder}/synthetic.ppm", *sorted(glob.glob(data("kodak", "kodim0[13].png")))]
    names = []
    for picture in pictures:
        name = os.path.splitext(os.path.basename(picture))[0]
        run(a.holo, "compress", picture, "-o", f"{store}/{name}.holo", "-q", "--basis",
            "own" if name == "synthetic" else "auto", "--embed-basis")
        names.append(name)
    return store, names


def fetch(a, url, name, output, *arguments, expect=0):
    done = run(a.holo, "fetch", url, name, "-o", output, "--json", *arguments, expect=expect)
    return json.loads(done.stdout) if expect == 0 else done


def expect_same_picture(a, file, fetched, *arguments):
    run(a.holo, "render", file, f"{fetched}.expected.png", *arguments)
    check(read(fetched) == read(f"{fetched}.expected.png"), f"{fetched}: expected what holo render {arguments} gives")


def fetched_pictures_equal_rendered_ones(folder, a):
    store, names = make_store(folder, a)
    with Server([a.holod], store) as server:
        for transport in TRANSPORTS:
            for name in names:
                for arguments in ([], ["--scale", "1/4"], ["--scale", "0.3"], ["--region", "100,37,205,111"],
                                  ["--region", "13,250,300,100", "--scale", "1/2"], ["-k", "20"]):
                    result = fetch(a, server.url(transport), name, f"{folder}/out.png", *arguments)
                    check(result["complete"] and result["duplicate_bytes"] == 0, f"{name} {arguments}: {result}")
                    expect_same_picture(a, f"{store}/{name}.holo", f"{folder}/out.png", *arguments)
    return ", ".join(names)


def every_step_is_a_picture_and_the_last_is_the_whole(folder, a):
    store, names = make_store(folder, a)
    with Server([a.holod], store) as server:
        for transport in TRANSPORTS:
            steps = f"{folder}/{transport}"
            fetch(a, server.url(transport), names[0], f"{folder}/out.png", "--save-steps", steps)
            pictures = sorted(glob.glob(f"{steps}/*.png"))
            check(len(pictures) >= 5, f"expected some steps, found {pictures}")
            sizes = {read(picture)[16:24] for picture in pictures}
            check(len(sizes) == 1, "expected steps of one size")
            check(read(pictures[-1]) == read(f"{folder}/out.png"), "expected the last step to be the whole picture")


def budgets_and_targets_end_early(folder, a):
    store, names = make_store(folder, a)
    with Server([a.holod], store) as server:
        for transport in TRANSPORTS:
            url = server.url(transport)
            whole = fetch(a, url, names[-1], f"{folder}/out.png")
            small = fetch(a, url, names[-1], f"{folder}/small.png", "--max-bytes", "5000")
            check(small["complete"] and small["payload_bytes"] < whole["payload_bytes"] / 2, f"budget: {small} of {whole}")
            target = fetch(a, url, names[-1], f"{folder}/target.png", "--quality-target", "25")
            check(target["payload_bytes"] < whole["payload_bytes"] and target["estimated_psnr_db"] >= 25,
                  f"target: {target} of {whole}")


def a_basis_is_sent_once(folder, a):
    store, _ = make_store(folder, a)
    with Server([a.holod], store) as server:
        for transport in TRANSPORTS:
            os.environ["HOLO_CACHE_DIR"] = f"{folder}/cache-{transport}"
            first = fetch(a, server.url(transport), "synthetic", f"{folder}/a.png")
            again = fetch(a, server.url(transport), "synthetic", f"{folder}/b.png", "--region", "5,5,300,200")
            check(first["bases"] == 1 and again["bases"] == 0, f"expected one basis and then none: {first} {again}")
            run(a.holo, "fetch", server.url(transport), "synthetic", "-o", f"{folder}/c.png", "-q", "--no-cache")
            check(read(f"{folder}/a.png") == read(f"{folder}/c.png"), "with and without a cache differ")


def moving_about_and_reconnecting_costs_no_byte_twice(folder, a):
    store, names = make_store(folder, a)
    with Server([a.holod], store) as server:
        for transport in TRANSPORTS:
            for name in names:
                run(a.journey, server.url(transport), name, f"{store}/{name}.holo")


def a_cut_connection_is_taken_up_again(folder, a):
    store, names = make_store(folder, a)
    with Server([a.holod], store) as server:
        for transport in TRANSPORTS:
            with CuttingProxy(server.port(transport), [9_000, 20_000, 30_000]) as proxy:
                result = fetch(a, f"{transport}://127.0.0.1:{proxy.address}", names[-1], f"{folder}/out.png")
            check(result["reconnects"] >= 1 and proxy.cuts >= 1, f"expected reconnects: {result}")
            check(result["duplicate_bytes"] == 0, f"expected no byte twice: {result}")
            expect_same_picture(a, f"{store}/{names[-1]}.holo", f"{folder}/out.png")


def errors_have_their_exit_codes(folder, a):
    store, names = make_store(folder, a)
    with Server([a.holod], store) as server:
        for transport in TRANSPORTS:
            url = server.url(transport)
            for code, arguments in ((3, ["no such picture"]), (2, [names[0], "--region", "700,0,100,100"]),
                                    (3, ["../store/" + names[0]])):
                run(a.holo, "fetch", url, *arguments, "-o", f"{folder}/none.png", expect=code)
            check(not os.path.exists(f"{folder}/none.png"), "a failed fetch left a picture")


def plain_http_serves_the_file_and_its_prefixes(folder, a):
    store, names = make_store(folder, a)
    file = f"{store}/{names[0]}.holo"
    with Server([a.holod], store) as server:
        url = f"http://127.0.0.1:{server.port('ws')}/assets/{names[0]}.holo"
        with urllib.request.urlopen(url, timeout=60) as answer:
            check(answer.read() == read(file), "expected the file's bytes")
        request = urllib.request.Request(url, headers={"Range": "bytes=0-9999"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            check(answer.status == 206, f"expected 206, found {answer.status}")
            with open(f"{folder}/prefix.holo", "wb") as prefix:
                prefix.write(answer.read())
        run(a.holo, "render", f"{folder}/prefix.holo", f"{folder}/a.png")
        run(a.holo, "render", file, f"{folder}/b.png", "--bytes", "10000")
        check(read(f"{folder}/a.png") == read(f"{folder}/b.png"), "the range and --bytes differ")


def hostile_clients_cost_the_others_nothing(folder, a):
    store, names = make_store(folder, a)
    with Server([a.holod], store) as server:
        for transport in TRANSPORTS:
            vanished = []
            for garbage in (b"", b"\x00" * 100_000, b"GET / HTTP/1.1\r\n", os.urandom(5000),
                            b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
                            b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"):
                client = socket.create_connection(("127.0.0.1", server.port(transport)))
                try:
                    client.sendall(garbage)
                except OSError:
                    pass
                vanished.append(client)
            fetch(a, server.url(transport), names[0], f"{folder}/out.png")
            for client in vanished:
                client.close()
            fetch(a, server.url(transport), names[0], f"{folder}/out.png")


def holo_serve_is_the_same_server_and_packs_pictures(folder, a):
    os.makedirs(f"{folder}/pictures")
    write_ppm(f"{folder}/pictures/fresh.ppm", 200, 150, 9)
    with open(f"{folder}/pictures/no-picture.png", "w") as file:
        file.write("text")
    with Server([a.holo, "serve"], f"{folder}/pictures") as server:
        for transport in TRANSPORTS:
            result = fetch(a, server.url(transport), "fresh", f"{folder}/out.png")
            check(result["complete"], f"{result}")
            done = run(a.holo, "fetch", server.url(transport), "no-picture", "-o", f"{folder}/x.png", expect=None)
            check(done.returncode not in (0, 4), f"expected a clear refusal, found {done.returncode}: {done.stderr}")


def all_of_kodak_and_the_panorama(folder, a):
    pictures = sorted(glob.glob(data("kodak", "*.png"))) + glob.glob(data("large", "*panorama*.png")) + \
        glob.glob(data("large", "*pano_*.png"))
    if not pictures:
        return "skipped: HOLO_TEST_DATA has no kodak"
    store, names = make_store(folder, a, pictures)
    notes = [f"{len(names)} pictures"]
    with Server([a.holod], store) as server:
        for transport in TRANSPORTS:
            for name in names:
                result = fetch(a, server.url(transport), name, f"{folder}/out.ppm")
                check(result["complete"] and result["duplicate_bytes"] == 0, f"{name}: {result}")
                run(a.holo, "render", f"{store}/{name}.holo", f"{folder}/expected.ppm")
                check(read(f"{folder}/out.ppm") == read(f"{folder}/expected.ppm"), f"{name}: fetch and render differ")
                run(a.journey, server.url(transport), name, f"{store}/{name}.holo", timeout=1800)
            large = [name for name in names if "pano" in name]
            for name in large:
                used = peak_memory_mib(a.holo, "fetch", server.url(transport), name, "--region", "7000,300,1920,1080",
                                       "-o", f"{folder}/window.png")
                notes.append(f"{used:.0f} MiB for a window of {name} over {transport}")
                check(used < 200 or a.no_memory_limits, f"expected less than 200 MiB, found {used:.0f}")
        for name in names:
            for part in (0.05, 0.3, 0.7):
                size = int(os.path.getsize(f"{store}/{name}.holo") * part)
                run(a.holo, "render", f"{store}/{name}.holo", f"{folder}/prefix.ppm", "--bytes", size, "--scale", "1/4")
    return ", ".join(notes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--holo", required=True)
    parser.add_argument("--holod", required=True)
    parser.add_argument("--journey", required=True)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--no-memory-limits", action="store_true", help="for sanitizers")
    arguments = parser.parse_args()
    quick = [fetched_pictures_equal_rendered_ones, every_step_is_a_picture_and_the_last_is_the_whole,
             budgets_and_targets_end_early, a_basis_is_sent_once, moving_about_and_reconnecting_costs_no_byte_twice,
             a_cut_connection_is_taken_up_again, errors_have_their_exit_codes,
             plain_http_serves_the_file_and_its_prefixes, hostile_clients_cost_the_others_nothing,
             holo_serve_is_the_same_server_and_packs_pictures]
    main([all_of_kodak_and_the_panorama] if arguments.all else quick, arguments)
