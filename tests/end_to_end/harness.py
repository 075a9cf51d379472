"""What the end-to-end tests share: temporary folders, the programs under test, pictures made here."""

import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

PATIENCE_S = 1200


class Failure(Exception):
    pass


def check(condition, message):
    if not condition:
        raise Failure(message)


def run(*command, expect=0, timeout=PATIENCE_S, **options):
    """Runs a program; its exit code must be `expect` (None: any)."""
    done = subprocess.run([str(part) for part in command], capture_output=True, timeout=timeout, **options)
    if expect is not None and done.returncode != expect:
        raise Failure(f"{' '.join(map(str, command))}: expected exit code {expect}, found {done.returncode}\n"
                      f"{done.stdout.decode(errors='replace')}{done.stderr.decode(errors='replace')}")
    return done


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write_ppm(path, width, height, seed):
    """A synthetic picture: soft waves, edges and noise, the same for the same seed."""
    generator = random.Random(seed)
    rows = []
    for y in range(height):
        row = bytearray()
        for x in range(width):
            edge = 90 if (x // 37 + y // 29) % 2 else 0
            noise = generator.randrange(24)
            row += bytes(((x * 3 + y + edge + noise) % 256, (x * y // 97 + edge) % 256, (y * 2 + noise) % 256))
        rows.append(bytes(row))
    with open(path, "wb") as file:
        file.write(b"P6\n%d %d\n255\n" % (width, height) + b"".join(rows))


def write_noise_ppm(path, width, height):
    """Quick to make and slow to compress."""
    with open(path, "wb") as file:
        file.write(b"P6\n%d %d\n255\n" % (width, height) + random.Random(1).randbytes(width * height * 3))


class Server:
    """holod over a folder, until the end of a with block."""

    def __init__(self, command, store, *arguments):
        self.command, self.store, self.arguments = command, store, arguments

    def __enter__(self):
        self.log = tempfile.TemporaryFile()
        folder = tempfile.mkdtemp(prefix="holo_ready_")
        ready = os.path.join(folder, "ready.json")
        self.process = subprocess.Popen(
            [*map(str, self.command), str(self.store), "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--ready-file",
             ready, *self.arguments], stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + PATIENCE_S
        while not os.path.exists(ready):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise Failure(f"holod does not come up: {self.output()}")
            time.sleep(0.02)
        with open(ready) as file:
            self.addresses = json.load(file)
        shutil.rmtree(folder)
        return self

    def output(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def port(self, transport):
        return int(self.url(transport).rsplit(":", 1)[1])

    def url(self, transport):
        return self.addresses["websocket" if transport == "ws" else "grpc"]

    def __exit__(self, kind, *_):
        self.process.terminate()
        try:
            code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = "none: it had to be killed"
        if kind is None:
            check(code == 0, f"holod: expected an orderly end, found exit code {code}\n{self.output()}")


class CuttingProxy:
    """Forwards TCP, and resets each of the first connections after so many bytes to the client."""

    def __init__(self, port, cut_after):
        self.port, self.cut_after = port, list(cut_after)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()[1]
        self.cuts = 0

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            limit = self.cut_after.pop(0) if self.cut_after else None
            threading.Thread(target=self.pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, limit), daemon=True).start()

    def pump(self, source, sink, limit):
        passed = 0
        try:
            while data := source.recv(4096):
                if limit is not None and passed + len(data) > limit:
                    sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.cuts += 1
                    break
                sink.sendall(data)
                passed += len(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


def peak_memory_mib(*command):
    """Runs a program and says how much memory it held at most."""
    # Through a small process: what this one holds would count, because a child begins as its copy.
    measure = ("import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL); "
               "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)")
    return int(run(sys.executable, "-c", measure, *command).stdout) / 1024


def main(tests, arguments):
    """Runs each test in a folder of its own; the process's exit code says whether all passed."""
    failed = 0
    for test in tests:
        folder = tempfile.mkdtemp(prefix="holo_end_to_end_")
        os.environ["HOLO_CACHE_DIR"] = os.path.join(folder, "cache")
        started = time.monotonic()
        try:
            note = test(folder, arguments)
            print(f"ok      {test.__name__} ({time.monotonic() - started:.1f} s){': ' + note if note else ''}", flush=True)
        except (Failure, subprocess.TimeoutExpired, OSError) as failure:
            failed += 1
            print(f"FAILED  {test.__name__}: {failure}", flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)
