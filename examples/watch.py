"""Follows one order over the WebSocket and prints every message until the order is final.

Uses nothing but the standard library: watch.py ORDER_ID [HOST:PORT]. Instead of an order id it
takes any frame of the JSON form, like '{"subscribe":{"order":"…","since":0}}'.
"""

import base64
import json
import os
import socket
import struct
import sys

# The server sends a ping every 25 s; a connection that is silent for longer is broken.
TIMEOUT_S = 40

FINAL = ("PROCESSED", "FAILED", "CANCELLED")
TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


def handshake(connection, stream, host, port):
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        (
            f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n"
        ).encode()
    )
    status = stream.readline()
    while stream.readline().strip():
        pass
    if b" 101 " not in status:
        sys.exit(f"no upgrade: {status.decode(errors='replace').strip()}")


def send(connection, opcode, payload):
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    # One final frame; more than 125 bytes have their length in two bytes of their own.
    if len(payload) < 126:
        head = bytes([0x80 | opcode, 0x80 | len(payload)])
    else:
        head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, len(payload))
    connection.sendall(head + mask + masked)


def receive(stream):
    head = stream.read(2)
    if len(head) < 2:
        sys.exit("the connection ended")
    opcode, length = head[0] & 0x0F, head[1] & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", stream.read(2))
    elif length == 127:
        (length,) = struct.unpack(">Q", stream.read(8))
    return opcode, stream.read(length)


def last_status(message):
    """Where the order stands by this message: a change, or the answer to a subscription."""
    subscribed = message.get("subscribed", {})
    events = subscribed.get("events") or [subscribed.get("snapshot") or message]
    return events[-1].get("status")


def follow(connection, stream):
    while True:
        opcode, payload = receive(stream)
        if opcode == PING:
            send(connection, PONG, payload)
        elif opcode == CLOSE:
            sys.exit(f"closed: {payload!r}")
        elif opcode == TEXT:
            print(payload.decode(), flush=True)
            message = json.loads(payload)
            if "error" in message:
                sys.exit(1)
            if last_status(message) in FINAL:
                return


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: watch.py ORDER_ID|FRAME [HOST:PORT]")
    host, port = (sys.argv[2] if len(sys.argv) > 2 else "localhost:8081").rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
        stream = connection.makefile("rb")
        handshake(connection, stream, host, port)
        send(connection, TEXT, sys.argv[1].encode())
        follow(connection, stream)


if __name__ == "__main__":
    main()
