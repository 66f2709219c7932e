"""The kernel's clients on the far side of a router, and a flood of SYNs from beside them.

    internet.py get HOST LENGTH     GET /bytes/LENGTH
    internet.py put HOST LENGTH     POST LENGTH bytes to /digest
    internet.py echo HOST COUNT     COUNT connections to port 7, one after the other
    internet.py flood HOST RATE SECONDS
                                    RATE SYNs a second to port 7, from addresses of 10.99.0.0/16

Each prints one line of JSON: bytes received, milliseconds taken, and what TCP_INFO has of the
connections' options.
"""

import json
import random
import socket
import struct
import sys
import time

OPTIONS = ["timestamps", "sack", "wscale", "ecn", "ecn_seen"]


def options(stream):
    bits = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5]
    return {name for at, name in enumerate(OPTIONS) if bits >> at & 1}


def http(host, request, body):
    with socket.create_connection((host, 80), timeout=20) as stream:
        stream.sendall(request.encode())
        stream.sendall(body)
        got = bytearray()
        while chunk := stream.recv(1 << 16):
            got += chunk
        head, _, rest = bytes(got).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        return len(rest), options(stream)


def get(host, length):
    return http(host, f"GET /bytes/{length} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"")


def put(host, length):
    head = f"POST /digest HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    return http(host, head, bytes(int(length)))


def echo(host, count):
    total, common = 0, set(OPTIONS)
    for number in range(int(count)):
        said = bytes([number % 251]) * 20_000
        with socket.create_connection((host, 7), timeout=20) as stream:
            stream.settimeout(20)
            stream.sendall(said)
            heard = b""
            while len(heard) < len(said):
                chunk = stream.recv(1 << 16)
                assert chunk, "cut off"
                heard += chunk
            assert heard == said
            common &= options(stream)
            total += len(heard)
        time.sleep(0.02)
    return total, common


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def syn(source, to):
    # MSS, SACK permitted, timestamps, window scale: what a Linux client sends.
    extras = struct.pack("!BBHBBBBIIBBBB", 2, 4, 1460, 4, 2, 8, 10, 1, 0, 1, 3, 3, 7)
    port, number = random.randrange(1024, 65536), random.getrandbits(32)
    words = (port, 7, number, 0, 10 << 4, 2, 64240)
    zero = struct.pack("!HHIIBBHHH", *words, 0, 0) + extras
    pseudo = source + to + struct.pack("!BBH", 0, 6, len(zero))
    return struct.pack("!HHIIBBHHH", *words, checksum(pseudo + zero), 0) + extras


def flood(host, rate, seconds):
    to = socket.inet_aton(host)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sent, start = 0, time.monotonic()
    while (elapsed := time.monotonic() - start) < float(seconds):
        while sent < elapsed * float(rate):
            source = bytes([10, 99]) + random.randbytes(2)
            segment = syn(source, to)
            head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, 6, 0, source, to)
            raw.sendto(head + segment, (host, 0))
            sent += 1
        time.sleep(0.001)
    return sent, set()


def main():
    what, host, *rest = sys.argv[1:]
    start = time.monotonic()
    done, common = {"get": get, "put": put, "echo": echo, "flood": flood}[what](host, *rest)
    took = int((time.monotonic() - start) * 1000)
    print(json.dumps({"bytes": done, "ms": took, "options": sorted(common)}))


main()
