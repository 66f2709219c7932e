"""A certificate exchanged under an open connection.

usage: tls_reload.py HOST ROOTS NEW CHAIN

Asks for a page, puts the file NEW in the place of CHAIN, waits until new connections are shown
another certificate than before, and asks for the page again on the first connection.
"""

import os
import shutil
import socket
import ssl
import sys
import time

host, roots, new, chain = sys.argv[1:]
context = ssl.create_default_context(cafile=roots)
request = f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()


def connect():
    return context.wrap_socket(socket.create_connection((host, 443), 5), server_hostname=host)


def ask(connection):
    """One page over a connection that stays open."""
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer or b"</script>" not in answer:
        part = connection.recv(4096)
        if not part:
            raise AssertionError(f"ended in the middle of an answer: {answer!r}")
        answer += part
    if not answer.startswith(b"HTTP/1.1 200"):
        raise AssertionError(answer)


def serial(connection):
    return connection.getpeercert()["serialNumber"]


first = connect()
ask(first)
before = serial(first)
shutil.copy(new, chain + ".new")
os.replace(chain + ".new", chain)
begin = time.monotonic()
while True:
    with connect() as next_one:
        ask(next_one)
        after = serial(next_one)
    if after != before:
        break
    if time.monotonic() - begin > 15:
        raise AssertionError(f"still certificate {before} after 15 s")
    time.sleep(0.1)
ask(first)
print(f"certificate {after} after {time.monotonic() - begin:.1f} s, {before} on the open connection")
